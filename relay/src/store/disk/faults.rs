//! A disk that fails on command, for tests.

use std::{
    fs::OpenOptions,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::{StorageBackend, backends::FileBackend};

use super::{Disk, OpenError, STORE_FILE, State};
use crate::store::seal::KEY_FILE;

/// Turns writes off and on.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Fault(Arc<AtomicBool>);

impl Fault {
    pub(in super::super) fn set(&self, full: bool) {
        self.0.store(full, Ordering::SeqCst);
    }

    fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

#[derive(Debug)]
struct FaultyBackend(FileBackend, Fault);

impl StorageBackend for FaultyBackend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.1.check()?;
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.check()?;
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.1.check()?;
        self.0.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}

/// Opens the store in `directory` so that `fault` governs its writes.
pub(in super::super) fn open(directory: &Path, fault: &Fault) -> Result<(Disk, State), OpenError> {
    let path = directory.join(STORE_FILE);
    let opener = {
        let fault = fault.clone();
        Box::new(move || {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
            redb::Builder::new().create_with_backend(FaultyBackend(FileBackend::new(file)?, fault.clone()))
        })
    };
    Disk::open_with(directory, &directory.join(KEY_FILE), opener)
}
