//! The kernel: release, command line, mitigations, the settings that move a broker's numbers, io_uring.

use std::collections::BTreeMap;
use std::fs;

use io_uring::{IoUring as Ring, Probe};
use serde::{Deserialize, Serialize};

use super::{chosen, setting};

/// What changes latencies, write-back and sockets.
const SYSCTLS: [&str; 11] = [
    "kernel.perf_event_paranoid",
    "kernel.sched_autogroup_enabled",
    "net.core.rmem_max",
    "net.core.somaxconn",
    "net.core.wmem_max",
    "vm.dirty_background_bytes",
    "vm.dirty_background_ratio",
    "vm.dirty_bytes",
    "vm.dirty_ratio",
    "vm.overcommit_memory",
    "vm.swappiness",
];

/// The kernel and its settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Kernel {
    release: String,
    version: String,
    architecture: String,
    /// Without what is handed to init.
    cmdline: String,
    clock_source: Option<String>,
    transparent_hugepage: Option<String>,
    transparent_hugepage_defrag: Option<String>,
    mitigations: BTreeMap<String, String>,
    sysctls: BTreeMap<String, String>,
}

impl Kernel {
    pub(super) fn capture() -> Self {
        let uname = rustix::system::uname();
        let words = |path: &str| setting(path).map(|text| chosen(&text));
        let huge = "/sys/kernel/mm/transparent_hugepage";
        let cmdline = setting("/proc/cmdline").unwrap_or("unknown".to_owned());
        let sysctl = |name: &&str| {
            let value = setting(&format!("/proc/sys/{}", name.replace('.', "/")))?;
            Some(((*name).to_owned(), value))
        };
        Self {
            release: format!(
                "{} {}",
                uname.sysname().to_string_lossy(),
                uname.release().to_string_lossy()
            ),
            version: uname.version().to_string_lossy().into_owned(),
            architecture: uname.machine().to_string_lossy().into_owned(),
            cmdline: of_the_kernel(&cmdline).to_owned(),
            clock_source: setting(
                "/sys/devices/system/clocksource/clocksource0/current_clocksource",
            ),
            transparent_hugepage: words(&format!("{huge}/enabled")),
            transparent_hugepage_defrag: words(&format!("{huge}/defrag")),
            mitigations: mitigations(),
            sysctls: SYSCTLS.iter().filter_map(sysctl).collect(),
        }
    }

    pub(super) fn line(&self) -> String {
        let huge = self.transparent_hugepage.as_deref().unwrap_or("unknown");
        let is_on = |state: &&String| state.starts_with("Mitigation");
        let on = self.mitigations.values().filter(is_on).count();
        format!(
            "{}, transparent huge pages {huge}, {on} of {} CPU vulnerabilities mitigated at a cost",
            self.release,
            self.mitigations.len()
        )
    }
}

fn of_the_kernel(cmdline: &str) -> &str {
    cmdline
        .split_once(" -- ")
        .map_or(cmdline, |(kernels, _)| kernels)
}

fn mitigations() -> BTreeMap<String, String> {
    let entries = fs::read_dir("/sys/devices/system/cpu/vulnerabilities");
    let row = |entry: fs::DirEntry| {
        let state = fs::read_to_string(entry.path()).ok()?.trim().to_owned();
        Some((entry.file_name().to_string_lossy().into_owned(), state))
    };
    entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(row)
        .collect()
}

/// What io_uring can do here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct IoUring {
    /// `kernel.io_uring_disabled`.
    disabled: Option<String>,
    /// Why there is none, if there is none.
    error: Option<String>,
    /// `IORING_FEAT_`, as far as this build knows them.
    features: Vec<String>,
    /// `IORING_OP_`, as the kernel's probe tells.
    ops: Vec<String>,
}

impl IoUring {
    /// Sets up a small ring and asks it.
    pub(super) fn capture() -> Self {
        let disabled = setting("/proc/sys/kernel/io_uring_disabled");
        let mut probe = Probe::new();
        let ring = Ring::new(2).and_then(|ring| {
            ring.submitter().register_probe(&mut probe)?;
            Ok(ring)
        });
        match ring {
            Ok(ring) => Self {
                disabled,
                error: None,
                features: features(&ring),
                ops: ops(&probe),
            },
            Err(error) => Self {
                disabled,
                error: Some(error.to_string()),
                features: Vec::new(),
                ops: Vec::new(),
            },
        }
    }

    pub(super) fn line(&self) -> String {
        match &self.error {
            Some(error) => format!("none ({error})"),
            None => format!(
                "{} features, {} operations",
                self.features.len(),
                self.ops.len()
            ),
        }
    }
}

fn features(ring: &Ring) -> Vec<String> {
    let of = ring.params();
    let told = [
        ("SINGLE_MMAP", of.is_feature_single_mmap()),
        ("NODROP", of.is_feature_nodrop()),
        ("SUBMIT_STABLE", of.is_feature_submit_stable()),
        ("RW_CUR_POS", of.is_feature_rw_cur_pos()),
        ("CUR_PERSONALITY", of.is_feature_cur_personality()),
        ("FAST_POLL", of.is_feature_fast_poll()),
        ("POLL_32BITS", of.is_feature_poll_32bits()),
        ("SQPOLL_NONFIXED", of.is_feature_sqpoll_nonfixed()),
        ("EXT_ARG", of.is_feature_ext_arg()),
        ("NATIVE_WORKERS", of.is_feature_native_workers()),
        ("RSRC_TAGS", of.is_feature_resource_tagging()),
        ("CQE_SKIP", of.is_feature_skip_cqe_on_success()),
        ("LINKED_FILE", of.is_feature_linked_file()),
        ("RECVSEND_BUNDLE", of.is_feature_recvsend_bundle()),
        ("MIN_TIMEOUT", of.is_feature_min_timeout()),
    ];
    let has = told.into_iter().filter(|(_, has)| *has);
    has.map(|(name, _)| name.to_owned()).collect()
}

/// In the order of `enum io_uring_op` (include/uapi/linux/io_uring.h, Linux 6.18).
const OPS: &str = "NOP READV WRITEV FSYNC READ_FIXED WRITE_FIXED POLL_ADD POLL_REMOVE SYNC_FILE_RANGE \
    SENDMSG RECVMSG TIMEOUT TIMEOUT_REMOVE ACCEPT ASYNC_CANCEL LINK_TIMEOUT CONNECT FALLOCATE OPENAT CLOSE \
    FILES_UPDATE STATX READ WRITE FADVISE MADVISE SEND RECV OPENAT2 EPOLL_CTL SPLICE PROVIDE_BUFFERS \
    REMOVE_BUFFERS TEE SHUTDOWN RENAMEAT UNLINKAT MKDIRAT SYMLINKAT LINKAT MSG_RING FSETXATTR SETXATTR \
    FGETXATTR GETXATTR SOCKET URING_CMD SEND_ZC SENDMSG_ZC READ_MULTISHOT WAITID FUTEX_WAIT FUTEX_WAKE \
    FUTEX_WAITV FIXED_FD_INSTALL FTRUNCATE BIND LISTEN RECV_ZC EPOLL_WAIT READV_FIXED WRITEV_FIXED PIPE";

fn ops(probe: &Probe) -> Vec<String> {
    let numbered = (0u8..).zip(OPS.split_whitespace());
    let supported = numbered.filter(|(number, _)| probe.is_supported(*number));
    supported.map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_to_init_is_left_out() {
        assert_eq!(
            of_the_kernel("quiet mitigations=auto -- --secret x"),
            "quiet mitigations=auto"
        );
        assert_eq!(of_the_kernel("quiet"), "quiet");
    }

    #[test]
    fn io_uring_is_known_or_its_absence_is() {
        let ring = IoUring::capture();
        match &ring.error {
            // FSYNC is as old as io_uring.
            None => assert!(ring.ops.contains(&"FSYNC".to_owned()), "{ring:?}"),
            Some(error) => assert!(!error.is_empty() && ring.ops.is_empty(), "{ring:?}"),
        }
    }
}
