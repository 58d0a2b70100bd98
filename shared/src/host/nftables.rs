//! Puts the ruleset into the kernel, all of it at once, and takes it away again. Other tables are not looked at.

use std::{ffi::CString, io};

use nftnl::{
    Batch, Chain, ChainType, FinalizedBatch, Hook, MsgType, Policy, ProtoFamily, Rule, Table,
    expr::{
        Bitwise, Cmp, CmpOp, Conntrack, Counter, Icmpv6HeaderField, InterfaceName, Ipv6HeaderField, Meta,
        NetworkHeaderField, Payload, States, TcpHeaderField, TransportHeaderField, UdpHeaderField, Verdict,
    },
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::ruleset::{self, Chain as OurChain, ECHO_REQUEST, Match, Ruleset, TABLE, Transport};
use crate::packet::protocol;

/// The priority of `filter` (nft(8), "Standard priority names").
const FILTER: i32 = 0;

/// The kernel's number for IPv6 in a table of both families (`NFPROTO_IPV6`).
const NFPROTO_IPV6: u8 = 10;

/// Length of a netlink header, and its type for an acknowledgement or an error (netlink(7)).
const HEADER_BYTES: usize = 16;
const NLMSG_ERROR: u16 = 2;

/// The host takes no rules of ours.
#[derive(Debug, thiserror::Error)]
#[error("the table `inet {TABLE}` cannot be changed")]
pub struct FirewallError(#[from] io::Error);

/// Makes our table hold `ruleset`, whatever it held before: one transaction, so that there is no moment without it.
///
/// # Errors
/// When the kernel has no nftables, or CAP_NET_ADMIN is missing; then nothing changed.
pub fn apply(ruleset: &Ruleset) -> Result<(), FirewallError> {
    let table = table();
    let mut batch = Batch::new();
    // A table that is not there cannot be removed.
    batch.add(&table, MsgType::Add);
    batch.add(&table, MsgType::Del);
    batch.add(&table, MsgType::Add);
    for chain in OurChain::ALL {
        let mut base = Chain::new(text(chain.name()), &table);
        let hook = match chain {
            OurChain::Input => Hook::In,
            OurChain::Forward => Hook::Forward,
        };
        base.set_type(ChainType::Filter);
        base.set_hook(hook, FILTER);
        base.set_policy(Policy::Accept);
        batch.add(&base, MsgType::Add);
        for wanted in ruleset.of(chain) {
            let mut rule = Rule::new(&base);
            wanted.matches.iter().for_each(|one| add_match(&mut rule, one));
            match wanted.verdict {
                ruleset::Verdict::Accept => rule.add_expr(&Verdict::Accept),
                ruleset::Verdict::Drop => {
                    rule.add_expr(&Counter);
                    rule.add_expr(&Verdict::Drop);
                }
            }
            batch.add(&rule, MsgType::Add);
        }
    }
    Ok(send(&batch.finalize())?)
}

/// Removes our table, if it is there.
///
/// # Errors
/// As [`apply`].
pub fn reset() -> Result<(), FirewallError> {
    let table = table();
    let mut batch = Batch::new();
    batch.add(&table, MsgType::Add);
    batch.add(&table, MsgType::Del);
    Ok(send(&batch.finalize())?)
}

fn table() -> Table {
    Table::new(text(TABLE), ProtoFamily::Inet)
}

fn text(name: &str) -> CString {
    CString::new(name).expect("names of ours have no NUL")
}

fn add_match(rule: &mut Rule<'_>, wanted: &Match) {
    match wanted {
        Match::From(device) => {
            rule.add_expr(&Meta::IifName);
            rule.add_expr(&Cmp::new(CmpOp::Eq, InterfaceName::Exact(text(device))));
        }
        Match::To(device) => {
            rule.add_expr(&Meta::OifName);
            rule.add_expr(&Cmp::new(CmpOp::Eq, InterfaceName::Exact(text(device))));
        }
        Match::Known => {
            rule.add_expr(&Conntrack::State);
            rule.add_expr(&Bitwise::new((States::ESTABLISHED | States::RELATED).bits(), 0u32));
            rule.add_expr(&Cmp::new(CmpOp::Neq, 0u32));
        }
        Match::Transport(transport, port) => {
            let (number, field) = match transport {
                Transport::Tcp => (protocol::TCP, TransportHeaderField::Tcp(TcpHeaderField::Dport)),
                Transport::Udp => (protocol::UDP, TransportHeaderField::Udp(UdpHeaderField::Dport)),
            };
            add_protocol(rule, number);
            if let Some(port) = port {
                rule.add_expr(&Payload::Transport(field));
                rule.add_expr(&Cmp::new(CmpOp::Eq, &port.to_be_bytes()[..]));
            }
        }
        Match::EchoRequest => {
            add_protocol(rule, protocol::ICMPV6);
            rule.add_expr(&Payload::Transport(TransportHeaderField::Icmpv6(Icmpv6HeaderField::Type)));
            rule.add_expr(&Cmp::new(CmpOp::Eq, ECHO_REQUEST));
        }
        Match::Source(net) => {
            rule.add_expr(&Meta::NfProto);
            rule.add_expr(&Cmp::new(CmpOp::Eq, NFPROTO_IPV6));
            rule.add_expr(&Payload::Network(NetworkHeaderField::Ipv6(Ipv6HeaderField::Saddr)));
            rule.add_expr(&Bitwise::new(&net.netmask().octets()[..], &[0u8; 16][..]));
            rule.add_expr(&Cmp::new(CmpOp::Eq, &net.network().octets()[..]));
        }
    }
}

fn add_protocol(rule: &mut Rule<'_>, number: u8) {
    rule.add_expr(&Meta::L4Proto);
    rule.add_expr(&Cmp::new(CmpOp::Eq, number));
}

/// Sends a transaction, and looks through the answers, which are all there when the call returns.
fn send(batch: &FinalizedBatch) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    let bytes = batch.iter().collect::<Vec<_>>().concat();
    socket.send(&bytes, 0)?;
    let mut answers = 0;
    loop {
        match socket.recv_from_full() {
            Ok((answer, _)) => {
                check(&answer)?;
                answers += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && answers > 0 => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// The first error among the messages of an answer.
fn check(mut answer: &[u8]) -> io::Result<()> {
    while let Some((header, body)) = answer.split_first_chunk::<HEADER_BYTES>() {
        let [l0, l1, l2, l3, t0, t1, ..] = *header;
        let bytes = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        if u16::from_ne_bytes([t0, t1]) == NLMSG_ERROR
            && let Some((code, _)) = body.split_first_chunk::<4>()
        {
            match i32::from_ne_bytes(*code) {
                0 => {}
                code => return Err(io::Error::from_raw_os_error(code.saturating_neg())),
            }
        }
        // Messages begin at multiples of four.
        answer = answer.get(bytes.max(HEADER_BYTES).next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}
