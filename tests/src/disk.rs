//! A small disk of its own: an ext4 image mounted over a loop device. It can be filled by others, and lose its power.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::version::skipped;

/// `EXT4_IOC_SHUTDOWN` of the kernel: `_IOR('X', 125, __u32)`.
const EXT4_IOC_SHUTDOWN: u32 = 0x8004_587d;
/// Its flag "without flushing the journal": as if the power were cut.
const WITHOUT_LOGFLUSH: u32 = 2;

/// A mounted disk. Unmounted when dropped; whatever uses it must have ended before.
#[derive(Debug)]
pub struct SmallDisk {
    image: PathBuf,
    mounted_at: PathBuf,
}

impl SmallDisk {
    /// Makes `image` a disk of `mib` MiB and mounts it at `at`. `None`, with a printed reason, where that is not permitted.
    pub fn mount(image: &Path, at: &Path, mib: u64) -> Option<Self> {
        File::create(image).unwrap().set_len(mib << 20).unwrap();
        std::fs::create_dir_all(at).unwrap();
        // Nothing reserved for root, so that a full disk is full for everybody.
        run("mkfs.ext4", &["-q", "-F", "-m", "0", text(image)])
            .and_then(|()| run("mount", &["-o", "loop", text(image), text(at)]))
            .inspect_err(|reason| skipped(&format!("no disk can be mounted here: {reason}")))
            .ok()?;
        Some(Self { image: image.to_owned(), mounted_at: at.to_owned() })
    }

    /// Takes all space that is left, as another program's log would; also what others give up meanwhile.
    pub fn fill(&self) {
        const ROUNDS: usize = 50;
        let mut filler = OpenOptions::new().create(true).append(true).open(self.filler()).unwrap();
        let is_full = (0..ROUNDS).any(|_| {
            for piece in [1 << 20, 64 << 10, 4 << 10, 1] {
                while filler.write_all(&vec![0x5a; piece]).is_ok() {}
            }
            filler.sync_all().is_ok() && self.free_bytes() < 64 << 10
        });
        assert!(is_full, "{} bytes are free", self.free_bytes());
    }

    /// Gives that space back.
    pub fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    /// Bytes that are left.
    pub fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.mounted_at).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Cuts the power: whatever was not synced is gone, and every access fails until [`SmallDisk::restore`].
    pub fn cut_power(&self) {
        // The ioctl is made by a program that has it in its standard library, as this crate has no unsafe code.
        let script = "import fcntl, os, struct, sys\n\
                      fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), int(sys.argv[2]), struct.pack('I', int(sys.argv[3])))";
        let (request, flag) = (EXT4_IOC_SHUTDOWN.to_string(), WITHOUT_LOGFLUSH.to_string());
        run("python3", &["-c", script, text(&self.mounted_at), &request, &flag]).unwrap();
    }

    /// Repairs and mounts it again, as the next boot does. Nothing may use it.
    pub fn restore(&self) {
        run("umount", &[text(&self.mounted_at)]).unwrap();
        // 1 means "repaired".
        let checked = Command::new("e2fsck").args(["-p", text(&self.image)]).output().unwrap();
        assert!(checked.status.code().is_some_and(|code| code <= 1), "{checked:?}");
        run("mount", &["-o", "loop", text(&self.image), text(&self.mounted_at)]).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.mounted_at.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = run("umount", &[text(&self.mounted_at)]) {
            run("umount", &["-l", text(&self.mounted_at)]).ok();
            eprintln!("unmounted by force: {error}");
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
