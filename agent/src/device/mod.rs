//! Where packets appear on this host: in a TUN device of the kernel's, or in a netstack of ours.
//!
//! Both are behind one gate, which lets pass what `node::routes` allows and counts the rest.

mod datagrams;
#[cfg_attr(not(feature = "kernel"), path = "not_built.rs")]
mod kernel;
mod user;

use std::{collections::VecDeque, fmt, io, net::Ipv6Addr, sync::Arc};

use bytes::Bytes;
use underpass_shared::ledger::{Ledger, Place, Reason};

use self::{kernel::KernelDevice, user::UserDevice};
use crate::{
    config::Mode,
    node::{
        overlay::{NoAgentAddress, Overlay},
        publish::Published,
        routes::Routes,
    },
};

/// How many packets are taken from one side before the other has its turn, and the QUIC connection its own.
///
/// Some 330 kB: two long frames of the kernel's, or 2.6 ms at 1 Gbit/s.
pub const BATCH_PACKETS: usize = 256;

/// Why packets can appear nowhere.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error(transparent)]
    Address(#[from] NoAgentAddress),
    #[error("kernel mode cannot start")]
    Kernel(#[from] kernel::KernelError),
    #[error("the TUN device is gone")]
    Gone(#[source] io::Error),
}

/// The device. It outlives sessions, so that flows survive a change of relay.
#[derive(Debug)]
pub struct Device {
    kind: Kind,
    mode: Mode,
    overlay: Option<Overlay>,
    published: Arc<Published>,
    ledger: Arc<Ledger>,
    crossed: Crossed,
}

#[derive(Debug)]
enum Kind {
    Kernel(Box<KernelDevice>),
    /// Starts when there is an address.
    User(Option<UserDevice>),
}

impl Device {
    /// Makes the device that `mode` asks for, and says which it is where that was open.
    ///
    /// # Errors
    /// When kernel mode was asked for and is not to be had.
    pub fn open(mode: Mode, published: Arc<Published>, ledger: Arc<Ledger>) -> Result<Self, DeviceError> {
        let kind = match mode {
            Mode::User => Kind::User(None),
            Mode::Kernel => Kind::Kernel(Box::new(KernelDevice::open()?)),
            Mode::Auto => match KernelDevice::open() {
                Ok(device) => Kind::Kernel(Box::new(device)),
                Err(reason) => fall_back(reason),
            },
        };
        Ok(Self { kind, mode, overlay: None, published, ledger, crossed: Crossed::default() })
    }

    /// Makes packets appear at `address`, which stays as it is when it was so before.
    ///
    /// # Errors
    /// When the address is no agent's, or the host refuses and kernel mode was asked for.
    pub async fn assign(&mut self, address: Ipv6Addr) -> Result<(), DeviceError> {
        let overlay = Overlay::around(address)?;
        if self.overlay == Some(overlay) {
            return Ok(());
        }
        if let Kind::Kernel(device) = &mut self.kind {
            match device.assign(&overlay, &self.published).await {
                Ok(()) => println!("mode kernel: device {}", kernel::NAME),
                Err(reason) if self.mode == Mode::Auto => self.kind = fall_back(reason),
                Err(reason) => return Err(reason.into()),
            }
        }
        if let Kind::User(device) = &mut self.kind {
            *device = Some(UserDevice::start(address, Arc::clone(&self.published), Arc::clone(&self.ledger)));
        }
        self.overlay = Some(overlay);
        Ok(())
    }

    /// Waits until there are packets for the tunnel, and adds them to `frames`, each behind `prefix`: at most
    /// [`BATCH_PACKETS`], and what the last frame of the kernel's was split into. What `routes` does not allow is lost.
    /// Cancel-safe.
    ///
    /// # Errors
    /// The device is gone.
    pub async fn collect(
        &mut self,
        routes: &Routes,
        prefix: &[u8],
        frames: &mut VecDeque<Bytes>,
    ) -> Result<(), DeviceError> {
        let mut gate = Gate { routes, ledger: &self.ledger, crossed: &mut self.crossed };
        match &mut self.kind {
            Kind::Kernel(device) if self.overlay.is_some() => {
                device.collect(gate, prefix, frames).await.map_err(DeviceError::Gone)
            }
            Kind::User(Some(device)) => {
                let packet = device.recv().await;
                if gate.lead(&packet) {
                    frames.push_back([prefix, &packet].concat().into());
                }
                Ok(())
            }
            Kind::Kernel(_) | Kind::User(None) => std::future::pending().await,
        }
    }

    /// Takes packets from the tunnel, as far as `routes` allows, and leaves `packets` empty.
    pub fn deliver(&mut self, routes: &Routes, packets: &mut Vec<Bytes>) {
        self.crossed.packets_in += packets.len() as u64;
        let mut gate = Gate { routes, ledger: &self.ledger, crossed: &mut self.crossed };
        packets.retain(|packet| gate.agrees(routes.admit(packet)));
        match &mut self.kind {
            Kind::Kernel(device) => device.deliver(&mut gate, packets),
            Kind::User(Some(device)) => {
                for packet in packets.iter() {
                    gate.crossed.frames_in += 1;
                    gate.crossed.bytes_in += packet.len() as u64;
                    device.push(packet.clone());
                }
            }
            Kind::User(None) => {}
        }
        packets.clear();
    }

    /// What an exit must do that does not wait for this to be dropped.
    #[must_use]
    pub fn farewell(&self) -> fn() {
        match &self.kind {
            Kind::Kernel(_) => kernel::remove_rules,
            Kind::User(_) => || {},
        }
    }

    /// Counts packets from [`Device::collect`] that the tunnel took.
    pub fn count_sent(&mut self, packets: usize) {
        self.crossed.packets_out += packets as u64;
    }

    /// What has crossed until now.
    #[must_use]
    pub fn crossed(&self) -> &Crossed {
        &self.crossed
    }
}

/// One line, because somebody may have expected the other mode.
fn fall_back(reason: kernel::KernelError) -> Kind {
    println!("mode user: {:#}", anyhow::Error::new(reason));
    Kind::User(None)
}

/// Stands between the device and the tunnel.
struct Gate<'a> {
    routes: &'a Routes,
    ledger: &'a Ledger,
    crossed: &'a mut Crossed,
}

impl Gate<'_> {
    /// Counts a frame that came out of the device, and says whether it may go on.
    fn lead(&mut self, packet: &[u8]) -> bool {
        self.crossed.frames_out += 1;
        self.crossed.bytes_out += packet.len() as u64;
        self.agrees(self.routes.lead(packet))
    }

    fn agrees(&mut self, verdict: Result<(), Reason>) -> bool {
        self.ledger.enter(Place::Policy, 1);
        match verdict {
            Ok(()) => self.ledger.deliver(Place::Policy, 1),
            Err(reason) => self.ledger.lose(Place::Policy, reason, 1),
        }
        verdict.is_ok()
    }
}

/// What has crossed between the device and the tunnel. Frames and their bytes are what the kernel's counters of the device
/// count; packets of the tunnel are what long frames were split into. What was lost is in the ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Crossed {
    /// Out of the device.
    pub frames_out: u64,
    pub bytes_out: u64,
    /// Into the tunnel.
    pub packets_out: u64,
    /// Out of the tunnel.
    pub packets_in: u64,
    /// Into the device.
    pub frames_in: u64,
    pub bytes_in: u64,
}

impl fmt::Display for Crossed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frames_out, bytes_out, packets_out, packets_in, frames_in, bytes_in } = self;
        write!(f, "frames_out={frames_out} bytes_out={bytes_out} packets_out={packets_out} ")?;
        write!(f, "packets_in={packets_in} frames_in={frames_in} bytes_in={bytes_in}")
    }
}
