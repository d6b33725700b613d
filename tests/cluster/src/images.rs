//! Images without a registry. Comes in: programs of this machine. Goes out: an archive with them and
//! the shared libraries they need, for [`crate::Cluster::load_image`]. It may call `ldd`, `tar` and
//! `sha256sum`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

/// The image that holds a pod's namespaces.
pub(crate) const PAUSE: &str = "synod.test/pause:1";
/// The image with the little programs of [`crate::pod`].
pub const TOOLS: &str = "synod.test/tools:1";
/// Who runs in images, unless the pod says otherwise.
pub const USER: u32 = 65_532;

/// What an image is made of.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    /// With its tag, such as `synod.test/tools:1`. Pods use it with `imagePullPolicy: Never`.
    pub name: &'a str,
    /// Files of this machine, and where they are in the image. What a program loads comes along.
    pub files: &'a [(&'a Path, &'a str)],
    /// What runs unless the pod says otherwise.
    pub entrypoint: &'a [&'a str],
    /// Variables, each as `NAME=value`.
    pub environment: &'a [&'a str],
    /// Who it runs as; a number, else Kubernetes cannot tell that it is not root.
    pub user: u32,
}

/// Assembles an archive as `docker save` writes it, in `folder`. Nothing in it can be written by its
/// user but `/tmp`, so it works with a root file system that is read only.
pub fn archive(image: &Image<'_>, folder: &Path) -> Result<PathBuf> {
    let name: String = image.name.replace(['/', ':'], "-");
    let stage = folder.join(&name);
    if stage.exists() {
        fs::remove_dir_all(&stage)?;
    }
    let root = stage.join("root");
    fill(image, &root)?;
    let layer = stage.join("layer.tar");
    tar(&root, &layer, &["."])?;
    let digest = digest(&layer)?;
    let environment = [&["PATH=/usr/local/bin:/usr/bin:/bin"], image.environment].concat();
    let config = json!({
        "architecture": architecture()?,
        "os": "linux",
        "config": {
            "Entrypoint": image.entrypoint,
            "User": image.user.to_string(),
            "Env": environment,
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "history": [{"created_by": "synod-cluster"}],
    });
    fs::write(stage.join("config.json"), config.to_string())?;
    let manifest = json!([{
        "Config": "config.json", "RepoTags": [image.name], "Layers": ["layer.tar"],
    }]);
    fs::write(stage.join("manifest.json"), manifest.to_string())?;
    let archive = folder.join(format!("{name}.tar"));
    tar(
        &stage,
        &archive,
        &["manifest.json", "config.json", "layer.tar"],
    )?;
    fs::remove_dir_all(&stage)?;
    Ok(archive)
}

fn fill(image: &Image<'_>, root: &Path) -> Result<()> {
    let mut files: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for (source, place) in image.files {
        let resolved = fs::canonicalize(source);
        let resolved = resolved.with_context(|| format!("finding {}", source.display()))?;
        for library in libraries(&resolved)? {
            files.insert(library.clone(), library);
        }
        files.insert(PathBuf::from(place), resolved);
    }
    for (place, source) in &files {
        let place = root.join(place.strip_prefix("/").unwrap_or(place));
        fs::create_dir_all(place.parent().unwrap_or(root))?;
        fs::copy(source, &place)
            .with_context(|| format!("copying {} into {}", source.display(), image.name))?;
    }
    let user = image.user;
    let etc = root.join("etc");
    fs::create_dir_all(&etc)?;
    let passwd = format!("root:x:0:0::/:/\nuser:x:{user}:{user}::/:/\n");
    fs::write(etc.join("passwd"), passwd)?;
    fs::write(etc.join("group"), format!("root:x:0:\nuser:x:{user}:\n"))?;
    fs::write(etc.join("nsswitch.conf"), "hosts: files dns\n")?;
    let temporary = root.join("tmp");
    fs::create_dir_all(&temporary)?;
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    Ok(fs::set_permissions(temporary, open)?)
}

/// What the loader takes for a program, at the paths where it looks; nothing for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("starting ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut found = Vec::new();
    for line in text.lines() {
        if line.contains("not found") {
            bail!("{} needs a library: {}", program.display(), line.trim());
        }
        let path = line.split_whitespace().find(|word| word.starts_with('/'));
        found.extend(path.map(PathBuf::from));
    }
    // The C library loads these by itself when it resolves names.
    let c_library = found.iter().find(|path| path.ends_with("libc.so.6"));
    if let Some(folder) = c_library.and_then(|path| path.parent()) {
        let more = ["libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2"];
        let more: Vec<PathBuf> = more.iter().map(|name| folder.join(name)).collect();
        found.extend(more.into_iter().filter(|path| path.exists()));
    }
    Ok(found)
}

fn tar(folder: &Path, archive: &Path, parts: &[&str]) -> Result<()> {
    let output = Command::new("tar")
        .args(["--create", "--sort=name", "--mtime=@0", "--numeric-owner"])
        .args(["--owner=0", "--group=0", "--file"])
        .arg(archive)
        .arg("--directory")
        .arg(folder)
        .args(parts)
        .output()
        .context("starting tar")?;
    if !output.status.success() {
        bail!("tar: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn digest(file: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(file).output();
    let output = output.context("starting sha256sum")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let digest = text.split_whitespace().next().unwrap_or_default();
    if digest.len() != 64 {
        bail!(
            "sha256sum: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(digest.to_owned())
}

fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("images for {other} cannot be assembled"),
    }
}

/// The images that every cluster needs, made of this very program.
pub fn own(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder)?;
    let program = std::env::current_exe()?;
    let files: &[(&Path, &str)] = &[(&program, "/usr/bin/synod-cluster")];
    let pause = Image {
        name: PAUSE,
        files,
        entrypoint: &["/usr/bin/synod-cluster", "pause"],
        environment: &[],
        user: USER,
    };
    let tools = Image {
        name: TOOLS,
        entrypoint: &["/usr/bin/synod-cluster"],
        ..pause.clone()
    };
    Ok(vec![archive(&pause, folder)?, archive(&tools, folder)?])
}
