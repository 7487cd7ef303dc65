//! A network interface to connect through, as people name it: by an address it has, or by its own name. A pure
//! value; `sys::socket` binds sockets to it, `fetch` spreads connections over several.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Longest name of an interface, bytes (`IFNAMSIZ` less the NUL, netdevice(7)).
const LONGEST_NAME: usize = 15;

/// Where connections leave this machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Nic {
    /// By the route for this source address; policy routing sends it through its interface.
    Address(IpAddr),
    /// Through this interface, whatever the routes of others say.
    Interface(String),
}

/// Neither an address nor the name of an interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither an IP address nor the name of a network interface")]
pub struct NotANic(String);

impl FromStr for Nic {
    type Err = NotANic;

    /// An interface's name is what dev_valid_name() in net/core/dev.c takes. Anything that looks like a number
    /// with dots or colons was meant as an address.
    fn from_str(text: &str) -> Result<Self, NotANic> {
        let text = text.trim();
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let is_name = !text.is_empty()
            && text.len() <= LONGEST_NAME
            && text != "."
            && text != ".."
            && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
            && !text.split('.').all(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
        if is_name { Ok(Self::Interface(text.to_owned())) } else { Err(NotANic(text.to_owned())) }
    }
}

impl fmt::Display for Nic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Interface(name) => name.fmt(f),
        }
    }
}

impl<'de> serde::Deserialize<'de> for Nic {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_told_apart() {
        for text in ["10.0.0.1", "fe80::1"] {
            assert_eq!(text.parse(), Ok(Nic::Address(text.parse().unwrap())), "{text}");
        }
        for text in ["eth0", "enp3s0f1", "bond0.100", " eth1 "] {
            assert_eq!(text.parse(), Ok(Nic::Interface(text.trim().to_owned())), "{text}");
        }
        for text in ["", " ", "10.0.0", "10.0.0.256", "eth0/1", "a-name-that-is-too-long", "fe80::x", "."] {
            assert!(text.parse::<Nic>().is_err(), "{text}");
        }
    }
}
