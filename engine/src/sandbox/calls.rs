//! System calls: an allow-list. What is not on it fails with EPERM, which libraries take as an error like any other.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
};

/// Calls that act on memory, time, threads, and on files that Landlock lets through.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_clone3,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_restrict_self,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mkdirat,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// The older forms of the same calls.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_getrlimit,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[libc::c_long] = &[];

/// From here on no socket, no program, no tracing, no signal to another process, no new executable memory.
pub(crate) fn forbid_system_calls() -> Vec<String> {
    let installed = target().and_then(|target| {
        // `clone3` hides its flags from filters: answered as unknown, so that libc falls back to `clone`.
        let no_clone3 =
            program(vec![(libc::SYS_clone3, vec![])], SeccompAction::Allow, errno(libc::ENOSYS), target)?;
        let allow_list = program(rules()?, errno(libc::EPERM), SeccompAction::Allow, target)?;
        install(&no_clone3)?;
        install(&allow_list)
    });
    match installed {
        Ok(()) => vec![],
        Err(error) => vec![format!("seccomp: {error}")],
    }
}

fn errno(number: libc::c_int) -> SeccompAction {
    SeccompAction::Errno(number.unsigned_abs())
}

fn target() -> Result<TargetArch, String> {
    std::env::consts::ARCH.try_into().map_err(|_| format!("no filter for {}", std::env::consts::ARCH))
}

fn install(program: &BpfProgram) -> Result<(), String> {
    apply_filter_all_threads(program).map_err(|error| error.to_string())
}

type Rules = Vec<(libc::c_long, Vec<SeccompRule>)>;

fn program(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
    target: TargetArch,
) -> Result<BpfProgram, String> {
    let rules: BTreeMap<i64, Vec<SeccompRule>> = rules.into_iter().collect();
    let filter = SeccompFilter::new(rules, otherwise, matched, target).map_err(|error| error.to_string())?;
    filter.try_into().map_err(|error: seccompiler::BackendError| error.to_string())
}

fn rules() -> Result<Rules, String> {
    let mut rules: Rules = ALLOWED.iter().chain(ALLOWED_HERE).map(|call| (*call, vec![])).collect();
    let thread = libc::CLONE_THREAD as u64;
    let exec = libc::PROT_EXEC as u64;
    let own = u64::from(std::process::id());
    rules.push((libc::SYS_clone, vec![when(0, Op::MaskedEq(thread), thread)?]));
    rules.push((libc::SYS_mmap, vec![when(2, Op::MaskedEq(exec), 0)?]));
    rules.push((libc::SYS_mprotect, vec![when(2, Op::MaskedEq(exec), 0)?]));
    rules.push((libc::SYS_tgkill, vec![when(0, Op::Eq, own)?]));
    // Reading limits, not setting them.
    rules.push((libc::SYS_prlimit64, vec![when(2, Op::Eq, 0)?]));
    rules.push((
        libc::SYS_prctl,
        vec![
            when(0, Op::Eq, libc::PR_SET_NAME as u64)?,
            when(0, Op::Eq, libc::PR_SET_NO_NEW_PRIVS as u64)?,
            when(0, Op::Eq, libc::PR_GET_NO_NEW_PRIVS as u64)?,
        ],
    ));
    // The second filter is installed under the first.
    rules.push((libc::SYS_seccomp, vec![]));
    Ok(rules)
}

fn when(argument: u8, operator: Op, value: u64) -> Result<SeccompRule, String> {
    let condition =
        SeccompCondition::new(argument, Length::Qword, operator, value).map_err(|e| e.to_string())?;
    SeccompRule::new(vec![condition]).map_err(|error| error.to_string())
}
