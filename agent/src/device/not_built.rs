//! Stands in for kernel mode in a build without it: no device is ever opened.

use std::{collections::VecDeque, io};

use bytes::Bytes;

use super::Gate;
use crate::node::{overlay::Overlay, publish::Published};

pub(super) const NAME: &str = "none";

/// Why the kernel has no device for us.
#[derive(Debug, thiserror::Error)]
#[error("this build has user mode only; kernel mode is the feature `kernel`")]
pub struct KernelError;

#[derive(Debug)]
pub(super) enum KernelDevice {}

impl KernelDevice {
    pub(super) fn open() -> Result<Self, KernelError> {
        Err(KernelError)
    }

    pub(super) async fn assign(&mut self, _: &Overlay, _: &Published) -> Result<(), KernelError> {
        match *self {}
    }

    pub(super) async fn collect(&mut self, _: Gate<'_>, _: &[u8], _: &mut VecDeque<Bytes>) -> io::Result<()> {
        match *self {}
    }

    pub(super) fn deliver(&mut self, _: &mut Gate<'_>, _: &[Bytes]) {
        match *self {}
    }
}

pub(super) fn remove_rules() {}
