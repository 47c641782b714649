//! The prebuilt DuckDB library, so that nobody compiles its C++ for half an hour.
//!
//! Taken from the first package client that the user has (npm, then go), checked against the pins below, kept in
//! the cache and linked into the clone as `.libduckdb`. With neither client, the `bundled` feature of the engine
//! builds DuckDB from source (about half an hour on two cores).

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};

use crate::dist::sha256;
use crate::tools;

/// Where one platform's library comes from.
struct Pin {
    host: (&'static str, &'static str),
    npm: &'static str,
    npm_sha256: &'static str,
    go: &'static str,
    go_sum: &'static str,
}

const PINS: [Pin; 4] = [
    Pin {
        host: ("linux", "x86_64"),
        npm: "linux-x64@1.5.6-r.1",
        npm_sha256: "1b9f82478539bb9a1d1df44bd103121a12ae52142c07158dc52b97d2ec1d69ff",
        go: "linux-amd64@v0.10506.0",
        go_sum: "h1:yy2TUU+YWxiBiOQryYseUl0AcUzoFFYRmmrCGijUxiU=",
    },
    Pin {
        host: ("linux", "aarch64"),
        npm: "linux-arm64@1.5.5-r.5",
        npm_sha256: "3b85f3ea438f7dc3691d7b5e6e4222ffe9127fd17885f96ca72e0c99925c348e",
        go: "linux-arm64@v0.10506.0",
        go_sum: "h1:HWUiLpeaZwUFg08Rs2eSpPbbaw3yEB2t96r+5NEbAgs=",
    },
    Pin {
        host: ("macos", "x86_64"),
        npm: "darwin-x64@1.5.5-r.5",
        npm_sha256: "1266f62ac7c02f7971554a2b0b2c4c19923a97258bfdf1b203873e174e7a28c4",
        go: "darwin-amd64@v0.10506.0",
        go_sum: "h1:bMccC8xWnr/3BjUKQfQxD8MUJPeME3GSHvddWvBKK+M=",
    },
    Pin {
        host: ("macos", "aarch64"),
        npm: "darwin-arm64@1.5.5-r.5",
        npm_sha256: "08b3cfd7d4d620a5fb67ef49db28551b767107266af3a8e2600e49d99ee59456",
        go: "darwin-arm64@v0.10506.0",
        go_sum: "h1:TzekQov7ntc+Xahq/puCqVHZgJh4ApJLsqEBpOiIXSA=",
    },
];

fn pin() -> Result<&'static Pin> {
    let host = (std::env::consts::OS, std::env::consts::ARCH);
    PINS.iter().find(|pin| pin.host == host).with_context(|| {
        format!(
            "there is no pinned DuckDB library for {}-{}\n  hint: `cargo build --release --features aap-engine/bundled` \
             compiles it from source, about half an hour on two cores",
            host.0, host.1
        )
    })
}

/// Puts the shared library at `.libduckdb`, and beside the programs as `target/lib`. A second call does nothing.
pub(crate) fn shared() -> Result<()> {
    if std::env::var_os("DUCKDB_LIB_DIR")
        .is_some_and(|dir| Utf8Path::from_path(dir.as_ref()) != Some(&link()))
    {
        return Ok(());
    }
    let pin = pin()?;
    let folder = tools::cache()?.join("libduckdb").join(&pin.npm_sha256[..16]);
    if !complete(&folder) {
        fetch_shared(pin, &folder)?;
    }
    point(&link(), &folder)?;
    fs::create_dir_all(tools::target()).context("create the target folder")?;
    point(&tools::target().join("lib"), &folder)
}

fn link() -> Utf8PathBuf {
    tools::root().join(".libduckdb")
}

fn complete(folder: &Utf8Path) -> bool {
    ["libduckdb.so", "libduckdb.dylib"].iter().any(|name| folder.join(name).is_file())
}

fn point(link: &Utf8Path, folder: &Utf8Path) -> Result<()> {
    if fs::read_link(link).is_ok_and(|at| at == folder.as_std_path()) {
        return Ok(());
    }
    if link.is_dir() && !link.is_symlink() {
        return Ok(()); // a real folder was put there by hand: it wins
    }
    if link.is_symlink() {
        fs::remove_file(link).with_context(|| format!("remove the old link `{link}`"))?;
    }
    symlink(folder, link).with_context(|| format!("link `{link}` to `{folder}`"))
}

fn fetch_shared(pin: &Pin, folder: &Utf8Path) -> Result<()> {
    let parent = folder.parent().context("find the cache folder")?;
    fs::create_dir_all(parent).with_context(|| format!("create `{parent}`"))?;
    let fresh = parent.join(format!("new.{}", std::process::id()));
    fs::create_dir_all(&fresh).with_context(|| format!("create `{fresh}`"))?;
    let fetched = if tools::has("npm") {
        from_npm(pin, &fresh)
    } else if tools::has("go") {
        from_go(pin, &fresh)
    } else {
        bail!(
            "the DuckDB library is fetched with npm or go, and neither is on the path\n  hint: install one of them \
             (`apt-get install -y npm`), put libduckdb 1.5.6 from duckdb.org into `{}`, or compile it: \
             `cargo build --release --features aap-engine/bundled` (about half an hour on two cores)",
            link()
        )
    };
    fetched.with_context(|| format!("fetch the DuckDB library into `{folder}`"))?;
    fs::rename(&fresh, folder).with_context(|| format!("move the library to `{folder}`"))
}

fn from_npm(pin: &Pin, folder: &Utf8Path) -> Result<()> {
    let package = format!("@duckdb/node-bindings-{}", pin.npm);
    let name = tools::output(
        Command::new("npm").args(["pack", "--silent", "--ignore-scripts", &package]).current_dir(folder),
    )?;
    let archive = folder.join(name.trim());
    check_sha256(&archive, pin.npm_sha256)?;
    tools::run(Command::new("tar").args(["xzf", archive.as_str(), "-C", folder.as_str()]))?;
    for name in ["libduckdb.so", "libduckdb.dylib"] {
        let from = folder.join("package").join(name);
        if from.is_file() {
            fs::rename(&from, folder.join(name)).context("take the library out of the package")?;
        }
    }
    fs::remove_file(&archive).context("remove the archive")?;
    fs::remove_dir_all(folder.join("package")).context("remove the unpacked package")
}

/// The Go module holds static archives; one link step makes the shared library of them.
fn from_go(pin: &Pin, folder: &Utf8Path) -> Result<()> {
    let source = go_module(pin, folder)?;
    let library = folder.join("libduckdb.so");
    let mut link = Command::new("cc");
    link.args(["-shared", "-o", library.as_str(), "-Wl,--allow-multiple-definition", "-Wl,--whole-archive"]);
    link.args(archives(&source)?);
    tools::run(link.args(["-Wl,--no-whole-archive", "-lstdc++", "-lm", "-ldl", "-lpthread"]))
}

fn go_module(pin: &Pin, folder: &Utf8Path) -> Result<Utf8PathBuf> {
    let module = format!("github.com/duckdb/duckdb-go-bindings/lib/{}", pin.go);
    let json = tools::output(
        Command::new("go")
            .args(["mod", "download", "-json", &module])
            .current_dir(folder)
            .env("GOFLAGS", "")
            .env("GOWORK", "off"),
    )?;
    let json: serde_json::Value = serde_json::from_str(&json).context("read what go says of the module")?;
    if json["Sum"] != pin.go_sum {
        bail!("the sum of {module} is {}, pinned is {}", json["Sum"], pin.go_sum);
    }
    Ok(json["Dir"].as_str().context("find the folder of the module")?.into())
}

fn archives(folder: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    let mut found = Vec::new();
    for entry in folder.read_dir_utf8().with_context(|| format!("list `{folder}`"))? {
        let path = entry?.into_path();
        if path.extension() == Some("a") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn check_sha256(file: &Utf8Path, expected: &str) -> Result<()> {
    let found = sha256(&fs::read(file).with_context(|| format!("read `{file}`"))?);
    if found != expected {
        bail!("sha256 of `{file}` is {found}, pinned is {expected}");
    }
    Ok(())
}
