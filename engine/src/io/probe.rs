//! Which driver can run here, and if it is not io_uring, why and what to do about it.

use std::io;

use super::uring::Uring;

/// A driver to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DriverKind {
    /// io_uring where the kernel lets us, else epoll.
    #[default]
    Auto,
    /// io_uring, or an error.
    Uring,
    /// epoll and plain system calls.
    Poll,
}

/// The driver chosen, with the line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// [`DriverKind::Uring`] or [`DriverKind::Poll`].
    pub kind: DriverKind,
    /// What runs; for a fall-back with reason and remedy.
    pub line: String,
    /// Whether io_uring was wanted and could not be had.
    pub is_fallback: bool,
}

/// Finds out which driver runs, by setting up a small ring.
///
/// # Errors
/// The reason and the remedy, if `wanted` is [`DriverKind::Uring`] and it cannot be had.
pub fn choose(wanted: DriverKind) -> Result<Choice, String> {
    if wanted == DriverKind::Poll {
        let line = "I/O driver: poll (epoll and plain system calls), as asked".to_owned();
        return Ok(Choice {
            kind: DriverKind::Poll,
            line,
            is_fallback: false,
        });
    }
    match Uring::probe() {
        Ok(()) => {
            let line =
                "I/O driver: io_uring (single issuer, deferred task work, one ring per shard)";
            Ok(Choice {
                kind: DriverKind::Uring,
                line: line.to_owned(),
                is_fallback: false,
            })
        }
        Err(error) => {
            let why = explain(&error, &read_sysctl());
            if wanted == DriverKind::Uring {
                return Err(format!("io_uring was asked for but {why}"));
            }
            let line = format!("I/O driver: poll (epoll and plain system calls), because {why}");
            Ok(Choice {
                kind: DriverKind::Poll,
                line,
                is_fallback: true,
            })
        }
    }
}

fn read_sysctl() -> String {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default()
}

/// Reason and remedy for a ring that could not be set up (io_uring_setup(2), "ERRORS").
fn explain(error: &io::Error, sysctl: &str) -> String {
    match (error.raw_os_error(), sysctl.trim()) {
        (Some(libc::EPERM), disabled @ ("1" | "2")) => format!(
            "the sysctl kernel.io_uring_disabled is {disabled}: `sysctl kernel.io_uring_disabled=0` \
             allows it"
        ),
        (Some(libc::EPERM), _) => "a seccomp profile forbids it (Docker's default profile does): \
                                   run the container with a profile that allows io_uring_setup, \
                                   io_uring_enter and io_uring_register"
            .to_owned(),
        (Some(libc::ENOSYS), _) => {
            "this kernel has no io_uring (or a sandbox hides it): Linux 6.1 or later has all of it"
                .to_owned()
        }
        (Some(libc::EINVAL), _) => {
            "this kernel's io_uring lacks single-issuer rings with deferred \
                                    task work: Linux 6.1 or later has them"
                .to_owned()
        }
        (Some(libc::ENOMEM), _) => "the limit of locked memory is too low for a ring: raise it \
                                    (`ulimit -l unlimited`, or LimitMEMLOCK= in the unit file)"
            .to_owned(),
        _ => format!("io_uring_setup failed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_names_its_remedy() {
        let cases = [
            (libc::EPERM, "2\n", "kernel.io_uring_disabled=0"),
            (libc::EPERM, "0\n", "seccomp"),
            (libc::ENOSYS, "", "Linux 6.1"),
            (libc::EINVAL, "0", "Linux 6.1"),
            (libc::ENOMEM, "0", "ulimit -l"),
            (libc::EIO, "0", "io_uring_setup failed"),
        ];
        for (errno, sysctl, expected) in cases {
            let text = explain(&io::Error::from_raw_os_error(errno), sysctl);
            assert!(text.contains(expected), "{errno}: {text}");
        }
    }

    #[test]
    fn the_poll_driver_can_be_asked_for() {
        let choice = choose(DriverKind::Poll).unwrap();
        assert_eq!((choice.kind, choice.is_fallback), (DriverKind::Poll, false));
    }
}
