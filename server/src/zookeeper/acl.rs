//! Access control lists: the schemes `world`, `auth`, `digest` and `ip`, enforced as ZooKeeper
//! does (`PrepRequestProcessor.fixupACL`, `ZooKeeperServer.checkACL`).
//!
//! The other schemes (`sasl`, `x509`) need providers that are not configured here, as in a stock
//! server, so lists that name them are invalid.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha1::{Digest as _, Sha1};

use super::protocol::ErrorCode;

/// May read a node's data and children, and get events about it.
pub const READ: i32 = 1;
/// May set a node's data.
pub const WRITE: i32 = 1 << 1;
/// May create children.
pub const CREATE: i32 = 1 << 2;
/// May delete children.
pub const DELETE: i32 = 1 << 3;
/// May set the list itself.
pub const ADMIN: i32 = 1 << 4;
/// All of them.
pub const ALL: i32 = READ | WRITE | CREATE | DELETE | ADMIN;

/// Who.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// How it is known who it is.
    pub scheme: String,
    /// Who it is, in the scheme's way.
    pub id: String,
}

impl Id {
    /// An id of a scheme.
    #[must_use]
    pub fn new(scheme: &str, id: &str) -> Self {
        Self {
            scheme: scheme.to_owned(),
            id: id.to_owned(),
        }
    }

    fn is_anyone(&self) -> bool {
        self.scheme == "world" && self.id == "anyone"
    }

    /// The part of the id that a user may see; `whoAmI` tells it.
    #[must_use]
    pub fn user(&self) -> &str {
        match self.scheme.as_str() {
            "digest" => self.id.split(':').next().unwrap_or_default(),
            _ => &self.id,
        }
    }
}

/// One entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    /// Bits of [`READ`] to [`ADMIN`].
    pub permissions: i32,
    /// To whom.
    pub id: Id,
}

impl Acl {
    /// A list that gives anyone these permissions.
    #[must_use]
    pub fn anyone(permissions: i32) -> Vec<Self> {
        vec![Self {
            permissions,
            id: Id::new("world", "anyone"),
        }]
    }
}

/// Checks a list that a client gave and puts the client's own ids where it says `auth`.
pub fn fix_up(given: &[Acl], client: &[Id]) -> Result<Vec<Acl>, ErrorCode> {
    let mut unique: Vec<&Acl> = Vec::new();
    for acl in given {
        if !unique.contains(&acl) {
            unique.push(acl);
        }
    }
    if unique.is_empty() {
        return Err(ErrorCode::InvalidAcl);
    }
    let mut fixed = Vec::new();
    for acl in unique {
        match acl.id.scheme.as_str() {
            "world" if acl.id.is_anyone() => fixed.push(acl.clone()),
            "auth" => {
                let own = client.iter().filter(|id| id.scheme == "digest");
                let before = fixed.len();
                fixed.extend(own.map(|id| Acl {
                    permissions: acl.permissions,
                    id: id.clone(),
                }));
                if fixed.len() == before {
                    return Err(ErrorCode::InvalidAcl);
                }
            }
            // Java's split drops empty parts at the end.
            "digest" if is_digest_id(&acl.id.id) => fixed.push(acl.clone()),
            "ip" if Network::parse(&acl.id.id).is_some() => fixed.push(acl.clone()),
            _ => return Err(ErrorCode::InvalidAcl),
        }
    }
    Ok(fixed)
}

fn is_digest_id(id: &str) -> bool {
    let mut parts = id.trim_end_matches(':').split(':');
    parts.next().is_some() && parts.next().is_some() && parts.next().is_none()
}

/// Whether a client with these ids has one of these permissions. An empty list hinders nobody.
pub fn check(acl: &[Acl], permissions: i32, client: &[Id]) -> Result<(), ErrorCode> {
    let grants = |entry: &Acl| {
        entry.permissions & permissions != 0
            && (entry.id.is_anyone() || client.iter().any(|id| matches(id, &entry.id)))
    };
    if acl.is_empty() || acl.iter().any(grants) {
        return Ok(());
    }
    Err(ErrorCode::NoAuth)
}

fn matches(client: &Id, wanted: &Id) -> bool {
    if client.scheme != wanted.scheme {
        return false;
    }
    match wanted.scheme.as_str() {
        "digest" => client.id == wanted.id,
        "ip" => match (Network::parse(&wanted.id), client.id.parse()) {
            (Some(network), Ok(address)) => network.contains(address),
            _ => false,
        },
        _ => false,
    }
}

/// The id that `user:password` proves: `user:base64(sha1(user:password))`.
#[must_use]
pub fn digest(user_password: &str) -> Id {
    let user = user_password.split(':').next().unwrap_or_default();
    let hash = BASE64.encode(Sha1::digest(user_password.as_bytes()));
    Id::new("digest", &format!("{user}:{hash}"))
}

/// What a reader without [`ADMIN`] sees of a list: no password hashes.
#[must_use]
pub fn without_secrets(acl: &[Acl]) -> Vec<Acl> {
    let hide = |acl: &Acl| match acl.id.scheme.as_str() {
        "digest" => Acl {
            permissions: acl.permissions,
            id: Id::new("digest", &format!("{}:x", acl.id.user())),
        },
        _ => acl.clone(),
    };
    acl.iter().map(hide).collect()
}

/// `address` or `address/bits`.
struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(bits_max);
        (bits <= bits_max).then_some(Self { address, bits })
    }

    fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differing = network.to_bits() ^ address.to_bits();
                differing.checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differing = network.to_bits() ^ address.to_bits();
                differing.checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(scheme: &str, id: &str) -> Vec<Acl> {
        vec![Acl {
            permissions: READ,
            id: Id::new(scheme, id),
        }]
    }

    #[test]
    fn digest_is_zookeepers() {
        // From DigestAuthenticationProvider's documentation of superDigest.
        assert_eq!(
            digest("super:test").id,
            "super:D/InIHSb7yEEbrWz8b9l71RjZJU="
        );
    }

    #[test]
    fn lists_are_fixed_up() {
        let client = [Id::new("ip", "127.0.0.1"), digest("a:b")];
        assert_eq!(fix_up(&[], &client), Err(ErrorCode::InvalidAcl));
        assert_eq!(fix_up(&list("auth", ""), &client).unwrap()[0].id, client[1]);
        assert_eq!(
            fix_up(&list("auth", ""), &client[..1]),
            Err(ErrorCode::InvalidAcl)
        );
        for (scheme, id) in [
            ("world", "me"),
            ("digest", "a"),
            ("digest", "a:b:c"),
            ("digest", "a:"),
            ("ip", "1.2.3"),
            ("ip", "1.2.3.4/33"),
            ("sasl", "a"),
            ("", ""),
        ] {
            assert_eq!(
                fix_up(&list(scheme, id), &client),
                Err(ErrorCode::InvalidAcl),
                "{scheme}:{id}"
            );
        }
        let twice = [list("ip", "10.0.0.0/8"), list("ip", "10.0.0.0/8")].concat();
        assert_eq!(fix_up(&twice, &client).unwrap().len(), 1);
    }

    #[test]
    fn permissions_are_checked() {
        let client = [Id::new("ip", "10.1.2.3"), digest("a:b")];
        assert_eq!(check(&[], ADMIN, &client), Ok(()));
        assert_eq!(check(&Acl::anyone(READ), READ, &client), Ok(()));
        assert_eq!(
            check(&Acl::anyone(READ), WRITE, &client),
            Err(ErrorCode::NoAuth)
        );
        assert_eq!(check(&list("ip", "10.0.0.0/8"), READ, &client), Ok(()));
        assert_eq!(check(&list("ip", "0.0.0.0/0"), READ, &client), Ok(()));
        assert_eq!(
            check(&list("ip", "11.0.0.0/8"), READ, &client),
            Err(ErrorCode::NoAuth)
        );
        assert_eq!(
            check(&list("ip", "::1"), READ, &client),
            Err(ErrorCode::NoAuth)
        );
        assert_eq!(
            check(&list("digest", &digest("a:b").id), READ, &client),
            Ok(())
        );
        assert_eq!(
            check(&list("digest", &digest("a:c").id), READ, &client),
            Err(ErrorCode::NoAuth)
        );
        assert_eq!(without_secrets(&list("digest", "a:hash"))[0].id.id, "a:x");
    }
}
