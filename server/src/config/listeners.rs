//! The syntax of `listeners`, `advertised.listeners` and `listener.security.protocol.map`, and the
//! translation of their spellings of Kafka 0.10. It binds and resolves nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::problem::{Level, Problem, quoted};
use super::settings::Settings;

/// `NAME://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndPoint {
    /// The listener's name, upper case.
    pub name: String,
    /// Host name or address without brackets; empty means all addresses.
    pub host: String,
    /// The port; 0 lets the system choose.
    pub port: u16,
}

impl EndPoint {
    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let address = self.host.parse::<IpAddr>();
        self.host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|ip| ip.is_loopback())
    }

    /// Whether it means all addresses of this machine.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        let address = self.host.parse::<IpAddr>();
        self.host.is_empty() || address.is_ok_and(|ip| ip.is_unspecified())
    }
}

impl fmt::Display for EndPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, host, port } = self;
        if host.contains(':') {
            write!(f, "{name}://[{host}]:{port}")
        } else {
            write!(f, "{name}://{host}:{port}")
        }
    }
}

/// What Metadata answers to a client of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// The host; `None` means the address that the client connected to.
    pub host: Option<String>,
    /// The port; 0 means the one that was really bound.
    pub port: u16,
}

/// A listener to bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub bind: EndPoint,
    /// What its clients are told.
    pub advertised: Advertised,
}

/// Reads a list of end points.
///
/// # Errors
/// What is wrong with the first malformed one.
pub fn parse_end_points(text: &str) -> Result<Vec<EndPoint>, String> {
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts.map(parse_end_point).collect()
}

fn parse_end_point(text: &str) -> Result<EndPoint, String> {
    let shown = quoted(text);
    let (name, rest) = text
        .split_once("://")
        .ok_or_else(|| format!("'{shown}' has no '://'"))?;
    let is_name_char = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-');
    if name.is_empty() || !name.chars().all(is_name_char) {
        return Err(format!("'{shown}' does not begin with a listener's name"));
    }
    let (host, port) = rest
        .rsplit_once(':')
        .ok_or_else(|| format!("'{shown}' has no port"))?;
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse::<u16>().ok().filter(|_| is_port);
    let port = port.ok_or_else(|| format!("'{shown}' has no port from 0 to 65535"))?;
    let bare = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').filter(|inner| inner.contains(':')),
        None => Some(host).filter(|host| !host.contains(':')),
    };
    // The characters of Kafka's own pattern (EndPoint.scala, 3.9).
    let is_host_char = |char: char| char.is_ascii_alphanumeric() || "-%._:".contains(char);
    let host = bare
        .filter(|host| host.chars().all(is_host_char))
        .ok_or_else(|| format!("'{shown}' has no proper host; an IPv6 address needs brackets"))?;
    Ok(EndPoint {
        name: name.to_ascii_uppercase(),
        host: host.to_owned(),
        port,
    })
}

/// Reads the listeners and what they advertise from all the keys that tell about them.
pub(crate) fn resolve(settings: &mut Settings, problems: &mut Vec<Problem>) -> Vec<Listener> {
    let listeners = bind_text(settings, problems);
    let Some(end_points) = read(settings, "listeners", &listeners, problems) else {
        return Vec::new();
    };
    if end_points.is_empty() {
        let hint = "name at least one, as in listeners=PLAINTEXT://127.0.0.1:9092";
        problems.push(settings.problem(Level::Error, "listeners", "no listener is set", hint));
    }
    check_distinct(settings, &end_points, problems);
    check_security(settings, &end_points, problems);
    let advertised = advertised_text(settings, &end_points, problems);
    let advertised = advertised
        .and_then(|text| read(settings, "advertised.listeners", &text, problems))
        .unwrap_or_default();
    check_advertised(settings, &end_points, &advertised, problems);
    let advertise = |bind: EndPoint| {
        let told = advertised
            .iter()
            .find(|end_point| end_point.name == bind.name);
        let told = told.unwrap_or(&bind);
        let advertised = Advertised {
            host: (!told.is_wildcard()).then(|| told.host.clone()),
            port: told.port,
        };
        Listener { bind, advertised }
    };
    end_points.into_iter().map(advertise).collect()
}

fn read(
    settings: &Settings,
    key: &str,
    text: &str,
    problems: &mut Vec<Problem>,
) -> Option<Vec<EndPoint>> {
    match parse_end_points(text) {
        Ok(end_points) => Some(end_points),
        Err(reason) => {
            let what = format!("invalid value for '{key}': {reason}");
            let hint = "write NAME://host:port, as in PLAINTEXT://127.0.0.1:9092";
            problems.push(settings.problem(Level::Error, key, &what, hint));
            None
        }
    }
}

/// `listeners`, or what `host.name` and `port` of 0.10 say.
fn bind_text(settings: &mut Settings, problems: &mut Vec<Problem>) -> String {
    let is_set = settings.set("listeners").is_some();
    let olds: Vec<_> = ["host.name", "port"]
        .into_iter()
        .filter(|key| settings.set(key).is_some())
        .collect();
    if !is_set && !olds.is_empty() {
        let host = match settings.set("host.name") {
            Some(_) => settings.text("host.name").unwrap_or_default(),
            None => "127.0.0.1".to_owned(),
        };
        let port = settings.integer("port").unwrap_or(9092);
        let text = format!("PLAINTEXT://{}:{port}", bracketed(&host));
        settings.settle("listeners", &text);
    }
    let listeners = settings.text("listeners").unwrap_or_default();
    note_old(settings, &olds, "listeners", &listeners, problems);
    listeners
}

/// `advertised.listeners`, or what `advertised.host.name` and `advertised.port` of 0.10 say.
fn advertised_text(
    settings: &mut Settings,
    end_points: &[EndPoint],
    problems: &mut Vec<Problem>,
) -> Option<String> {
    let is_set = settings.set("advertised.listeners").is_some();
    let olds: Vec<_> = ["advertised.host.name", "advertised.port"]
        .into_iter()
        .filter(|key| settings.set(key).is_some())
        .collect();
    if let (false, false, Some(first)) = (is_set, olds.is_empty(), end_points.first()) {
        let host = settings.text("advertised.host.name");
        let host = host.unwrap_or_else(|| first.host.clone());
        let port = settings.integer("advertised.port");
        let port = port.unwrap_or(first.port.into());
        let text = format!("{}://{}:{port}", first.name, bracketed(&host));
        settings.settle("advertised.listeners", &text);
    }
    let advertised = settings.text("advertised.listeners");
    let shown = advertised.clone().unwrap_or_default();
    note_old(settings, &olds, "advertised.listeners", &shown, problems);
    advertised
}

fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

fn note_old(
    settings: &Settings,
    olds: &[&str],
    new: &str,
    text: &str,
    problems: &mut Vec<Problem>,
) {
    for old in olds {
        let problem = if settings.set(new).is_some() {
            let hint = format!("'{new}' is set and goes first");
            settings.problem(Level::Warn, old, &format!("'{old}' has no effect"), &hint)
        } else {
            let what = format!("'{old}' is a spelling of Kafka 0.10");
            let hint = format!("read as {new}={}; write that instead", quoted(text));
            settings.problem(Level::Warn, old, &what, &hint)
        };
        problems.push(problem);
    }
}

fn check_distinct(settings: &Settings, end_points: &[EndPoint], problems: &mut Vec<Problem>) {
    for (index, end_point) in end_points.iter().enumerate() {
        let others = end_points.iter().take(index);
        for other in others {
            let what = if other.name == end_point.name {
                format!("two listeners are named {}", other.name)
            } else if other.port == end_point.port
                && other.port != 0
                && other.host == end_point.host
            {
                format!("the listeners {other} and {end_point} want one port")
            } else {
                continue;
            };
            let hint = "each listener needs a name and a port of its own";
            problems.push(settings.problem(Level::Error, "listeners", &what, hint));
        }
    }
}

/// Names mean the protocol of the same name unless the map says otherwise, as in Kafka.
fn check_security(settings: &Settings, end_points: &[EndPoint], problems: &mut Vec<Problem>) {
    let mut map: BTreeMap<String, String> = ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
        .into_iter()
        .map(|name| (name.to_owned(), name.to_owned()))
        .collect();
    const MAP_KEY: &str = "listener.security.protocol.map";
    let text = settings.text(MAP_KEY).unwrap_or_default();
    for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
        match pair.split_once(':') {
            Some((name, protocol)) => {
                let upper = |part: &str| part.trim().to_ascii_uppercase();
                map.insert(upper(name), upper(protocol));
            }
            None => {
                let what = format!(
                    "invalid value for '{MAP_KEY}': '{}' has no ':'",
                    quoted(pair)
                );
                let hint = "write NAME:PROTOCOL, as in BROKER:PLAINTEXT";
                problems.push(settings.problem(Level::Error, MAP_KEY, &what, hint));
            }
        }
    }
    for end_point in end_points {
        match map.get(&end_point.name).map(String::as_str) {
            Some("PLAINTEXT") if end_point.is_loopback() => {}
            Some("PLAINTEXT") => {
                let what = format!("listener {end_point} is open to the network");
                let hint = "anyone who reaches it may read and write, for it has no authentication; \
                            bind 127.0.0.1 unless the network is trusted";
                problems.push(settings.problem(Level::Warn, "listeners", &what, hint));
            }
            Some(protocol) => {
                let what = format!("listener {end_point} asks for {}", quoted(protocol));
                let hint = "this release speaks PLAINTEXT only; use it on 127.0.0.1, or behind a \
                            proxy that does TLS";
                problems.push(settings.problem(Level::Error, "listeners", &what, hint));
            }
            None => {
                let what = format!("listener {end_point} has a name without a security protocol");
                let hint = format!("add {MAP_KEY}={}:PLAINTEXT", end_point.name);
                problems.push(settings.problem(Level::Error, "listeners", &what, &hint));
            }
        }
    }
}

fn check_advertised(
    settings: &Settings,
    end_points: &[EndPoint],
    advertised: &[EndPoint],
    problems: &mut Vec<Problem>,
) {
    const KEY: &str = "advertised.listeners";
    for told in advertised {
        if !end_points
            .iter()
            .any(|end_point| end_point.name == told.name)
        {
            let what = format!("advertised listener {told} is not among the listeners");
            let names: Vec<_> = end_points
                .iter()
                .map(|end_point| end_point.name.as_str())
                .collect();
            let hint = format!("its name must be one of {}", names.join(", "));
            problems.push(settings.problem(Level::Error, KEY, &what, &hint));
        }
        if settings.set(KEY).is_some() && !told.host.is_empty() && told.is_wildcard() {
            let what = format!("advertised listener {told} is no address to connect to");
            let hint = "give the name or address by which clients reach this machine";
            problems.push(settings.problem(Level::Error, KEY, &what, hint));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<String, String> {
        parse_end_points(text).map(|all| {
            format!(
                "{:?}",
                all.iter().map(EndPoint::to_string).collect::<Vec<_>>()
            )
        })
    }

    #[test]
    fn end_points_are_read() {
        for text in [
            "PLAINTEXT://:9092",
            "PLAINTEXT://h-1.example_x:0",
            "PLAINTEXT://[::1]:9092",
            "BROKER://0.0.0.0:65535",
        ] {
            assert_eq!(one(text), Ok(format!("[{text:?}]")));
        }
        assert_eq!(
            one("plaintext://a:1 , b://c:2,").expect("two"),
            r#"["PLAINTEXT://a:1", "B://c:2"]"#
        );
    }

    #[test]
    fn malformed_end_points_are_errors() {
        for text in [
            "localhost:9092",
            "://h:1",
            "A B://h:1",
            "P://h",
            "P://h:",
            "P://h:+1",
            "P://h:65536",
            "P://h:-1",
            "P://::1:9092",
            "P://[::1:9092",
            "P://[h]:1",
            "P://h/x:1",
            "P://\u{e4}:1",
        ] {
            assert!(one(text).is_err(), "{text}");
        }
    }

    #[test]
    fn loopback_and_wildcard_are_told_apart() {
        let point = |text| parse_end_points(text).expect("valid").remove(0);
        assert!(point("P://localhost:1").is_loopback() && point("P://127.9.9.9:1").is_loopback());
        assert!(point("P://[::1]:1").is_loopback() && !point("P://:1").is_loopback());
        assert!(point("P://:1").is_wildcard() && point("P://0.0.0.0:1").is_wildcard());
        assert!(point("P://[::]:1").is_wildcard() && !point("P://h:1").is_wildcard());
    }
}
