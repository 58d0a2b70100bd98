//! Pure: the one nftables table that is ours, as a value. What it lets in from the tunnel, and nothing about anybody else.
//!
//! Its text is what `nft --stateless list table inet underpass` prints.

use std::fmt;

use ipnet::Ipv6Net;

/// The table's name, in family `inet`.
pub const TABLE: &str = "underpass";

/// IANA's number and nft's word for an echo request of ICMPv6 (RFC 4443 §4.1).
pub const ECHO_REQUEST: u8 = 128;

/// What comes in from the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admitted {
    /// Every TCP and UDP port, for these sources.
    From(Ipv6Net),
    /// These TCP and UDP ports, for whom the relay lets through.
    Ports(Vec<u16>),
}

/// The table's rules, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset(Vec<Rule>);

/// A rule of one base chain, which accepts by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Where it stands.
    pub chain: Chain,
    /// All of these must hold.
    pub matches: Vec<Match>,
    /// What then becomes of the packet.
    pub verdict: Verdict,
}

/// The base chains, at priority 0 of their hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chain {
    /// For this host.
    Input,
    /// Through this host.
    Forward,
}

/// What a packet is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// It came by the interface of this name.
    From(String),
    /// It leaves by the interface of this name.
    To(String),
    /// It belongs to a connection that this host knows, or is an error about one.
    Known,
    /// It is of this transport, and for this port if one is named.
    Transport(Transport, Option<u16>),
    /// It is an echo request of ICMPv6.
    EchoRequest,
    /// Its source is in this network.
    Source(Ipv6Net),
}

/// Transports with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// The end of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// This table has nothing against it.
    Accept,
    /// Counted and dropped.
    Drop,
}

impl Chain {
    /// Both, in the order of the table.
    pub const ALL: [Self; 2] = [Self::Input, Self::Forward];

    /// The chain's name, which is also its hook's.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Forward => "forward",
        }
    }
}

impl Ruleset {
    /// The rules for the tunnel's `device`.
    ///
    /// Answers to what this host began, errors about it and pings always come in. Nothing is routed between the tunnel
    /// and the host's other interfaces.
    #[must_use]
    pub fn new(device: &str, admitted: &Admitted) -> Self {
        let from = || Match::From(device.to_owned());
        let accept = |matches: Vec<Match>| {
            let matches = std::iter::once(from()).chain(matches).collect();
            Rule { chain: Chain::Input, matches, verdict: Verdict::Accept }
        };
        let drop = |chain, side| Rule { chain, matches: vec![side], verdict: Verdict::Drop };
        let mut rules = vec![accept(vec![Match::Known]), accept(vec![Match::EchoRequest])];
        for transport in [Transport::Tcp, Transport::Udp] {
            match admitted {
                Admitted::From(net) => {
                    rules.push(accept(vec![Match::Source(*net), Match::Transport(transport, None)]));
                }
                Admitted::Ports(ports) => {
                    let one = |port: &u16| accept(vec![Match::Transport(transport, Some(*port))]);
                    rules.extend(ports.iter().map(one));
                }
            }
        }
        rules.push(drop(Chain::Input, from()));
        rules.push(drop(Chain::Forward, from()));
        rules.push(drop(Chain::Forward, Match::To(device.to_owned())));
        Self(rules)
    }

    /// The rules of one chain, in their order.
    pub fn of(&self, chain: Chain) -> impl Iterator<Item = &Rule> {
        self.0.iter().filter(move |rule| rule.chain == chain)
    }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE} {{")?;
        for (at, chain) in Chain::ALL.into_iter().enumerate() {
            let gap = if at == 0 { "" } else { "\n" };
            let name = chain.name();
            writeln!(f, "{gap}\tchain {name} {{\n\t\ttype filter hook {name} priority filter; policy accept;")?;
            for rule in self.of(chain) {
                writeln!(f, "\t\t{rule}")?;
            }
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in &self.matches {
            write!(f, "{one} ")?;
        }
        f.write_str(match self.verdict {
            Verdict::Accept => "accept",
            Verdict::Drop => "counter drop",
        })
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(device) => write!(f, "iifname \"{device}\""),
            Self::To(device) => write!(f, "oifname \"{device}\""),
            Self::Known => f.write_str("ct state established,related"),
            Self::Transport(transport, Some(port)) => write!(f, "{} dport {port}", transport.name()),
            Self::Transport(transport, None) => write!(f, "meta l4proto {}", transport.name()),
            Self::EchoRequest => f.write_str("icmpv6 type echo-request"),
            Self::Source(net) => write!(f, "ip6 saddr {net}"),
        }
    }
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_ports_come_in_and_nothing_else() {
        let ruleset = Ruleset::new("underpass0", &Admitted::Ports(vec![80, 3000]));
        let want = r#"table inet underpass {
	chain input {
		type filter hook input priority filter; policy accept;
		iifname "underpass0" ct state established,related accept
		iifname "underpass0" icmpv6 type echo-request accept
		iifname "underpass0" tcp dport 80 accept
		iifname "underpass0" tcp dport 3000 accept
		iifname "underpass0" udp dport 80 accept
		iifname "underpass0" udp dport 3000 accept
		iifname "underpass0" counter drop
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname "underpass0" counter drop
		oifname "underpass0" counter drop
	}
}
"#;
        assert_eq!(ruleset.to_string(), want);
    }

    #[test]
    fn without_a_list_the_gateway_comes_in_everywhere_and_other_nodes_nowhere() {
        let relays = "fd12:3456:789a::/64".parse().unwrap();
        let text = Ruleset::new("underpass0", &Admitted::From(relays)).to_string();
        let accepted: Vec<_> = text.lines().filter(|line| line.ends_with("accept")).map(str::trim).collect();
        assert_eq!(
            accepted[2..],
            [
                "iifname \"underpass0\" ip6 saddr fd12:3456:789a::/64 meta l4proto tcp accept",
                "iifname \"underpass0\" ip6 saddr fd12:3456:789a::/64 meta l4proto udp accept",
            ]
        );
    }

    #[test]
    fn every_rule_is_about_our_device_alone() {
        for admitted in
            [Admitted::Ports(vec![]), Admitted::Ports(vec![1; 5]), Admitted::From("fd00::/64".parse().unwrap())]
        {
            let ruleset = Ruleset::new("dev", &admitted);
            let ours = |rule: &Rule| matches!(&rule.matches[0], Match::From(name) | Match::To(name) if name == "dev");
            assert!(ruleset.0.iter().all(ours), "{ruleset}");
        }
    }
}
