//! A TUN device with segmentation offload: frames in and out, without waiting, as `packet::offload` reads them.
//!
//! The device, its addresses and its routes live as long as this process: the kernel removes them with the descriptor.

use std::{
    fs, io,
    io::{IoSlice, IoSliceMut},
};

use tun_rs::{AsyncDevice, DeviceBuilder};

/// `EACCES`, which says no to opening the file; a missing capability is `EPERM`.
const ACCESS_DENIED: i32 = 13;

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    #[error("a TUN device needs CAP_NET_ADMIN")]
    Denied,
    #[error("this user may not open /dev/net/tun")]
    Closed,
    #[error("{0} is in use: another agent on this host is in kernel mode")]
    Taken(String),
    #[error("the host has no /dev/net/tun")]
    Absent,
    #[error("the host gives no TUN device {name}")]
    Refused { name: String, source: io::Error },
}

/// A device, down and without an address until `netlink` says otherwise.
pub struct Tun {
    device: AsyncDevice,
    index: u32,
}

impl std::fmt::Debug for Tun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tun({})", self.index)
    }
}

impl Tun {
    /// Makes the device `name`, whose packets are at most `mtu` bytes long.
    ///
    /// # Errors
    /// See [`TunError`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open(name: &str, mtu: u16) -> Result<Self, TunError> {
        let refused = |source: io::Error| match source.kind() {
            io::ErrorKind::PermissionDenied if source.raw_os_error() == Some(ACCESS_DENIED) => TunError::Closed,
            io::ErrorKind::PermissionDenied => TunError::Denied,
            io::ErrorKind::ResourceBusy => TunError::Taken(name.to_owned()),
            io::ErrorKind::NotFound => TunError::Absent,
            _ => TunError::Refused { name: name.to_owned(), source },
        };
        let device = DeviceBuilder::new().name(name).mtu(mtu).offload(true).enable(false).build_async();
        let device = device.map_err(refused)?;
        let index = device.if_index().map_err(refused)?;
        // Containers often have IPv6 off for new devices. Where these may not be written the address is refused, which
        // says more. A link-local address has no use here, and would be announced to a peer that drops it.
        for (setting, value) in [("disable_ipv6", "0"), ("addr_gen_mode", "1")] {
            let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/{setting}"), value);
        }
        Ok(Self { device, index })
    }

    /// The interface's number.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Waits until a frame can be read. Cancel-safe.
    ///
    /// # Errors
    /// The device is gone.
    pub async fn readable(&self) -> io::Result<()> {
        self.device.readable().await
    }

    /// Reads a frame, and says how long it is; `frame` has room for [`FRAME_BYTES_MAX`](crate::packet::offload::FRAME_BYTES_MAX).
    ///
    /// # Errors
    /// `WouldBlock` when there is none; otherwise the device is down or gone.
    pub fn try_read(&self, frame: &mut [u8]) -> io::Result<usize> {
        // The vectored call hands over the frame as it is; the plain one would take the header off.
        self.device.try_recv_vectored(&mut [IoSliceMut::new(frame)])
    }

    /// Writes one frame, which lies in `pieces`.
    ///
    /// # Errors
    /// The host does not take it, or the device is down or gone.
    pub fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        self.device.try_send_vectored(pieces).map(|_| ())
    }
}
