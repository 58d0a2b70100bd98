//! smoltcp made async.
