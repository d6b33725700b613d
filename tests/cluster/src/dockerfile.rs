//! Images as the Dockerfiles of this tree make them. Comes in: programs that cargo has built already.
//! Goes out: archives. It calls buildah, which needs no service and no registry.
//!
//! All of a Dockerfile is done but compiling: in the image that stands for the Rust toolchain, `cargo`
//! puts the program where it would have built it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::images::{Image, archive};

/// Stands for the toolchain, and for the small image below the program.
const BUILDER: &str = "synod.test/builder:1";
/// Takes the name of the program from where it stands in the arguments: last.
const CARGO: &str = "#!/bin/sh
set -e
for it in \"$@\"; do program=$it; done
mkdir -p target/release
cp \"/built/$program\" target/release/
";

/// Builds images in a folder of its own.
#[derive(Debug)]
pub struct Builder {
    folder: PathBuf,
}

// === impl Builder ===

impl Builder {
    /// One that knows these programs.
    pub fn new(folder: &Path, programs: &[&Path]) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let cargo = folder.join("cargo");
        fs::write(&cargo, CARGO)?;
        fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755))?;
        let mut files = vec![
            (PathBuf::from("/bin/sh"), "/bin/sh".to_owned()),
            (PathBuf::from("/bin/cp"), "/bin/cp".to_owned()),
            (PathBuf::from("/bin/mkdir"), "/bin/mkdir".to_owned()),
            (cargo, "/usr/bin/cargo".to_owned()),
        ];
        for program in programs {
            let name = program.file_name().context("a program has a name")?;
            let place = format!("/built/{}", name.to_string_lossy());
            files.push((program.to_path_buf(), place));
        }
        let files: Vec<_> = files
            .iter()
            .map(|(file, place)| (file.as_path(), place.as_str()))
            .collect();
        let image = archive(
            &Image {
                name: BUILDER,
                files: &files,
                entrypoint: &["/bin/sh"],
                environment: &[],
                user: 0,
            },
            folder,
        )?;
        let builder = Self {
            folder: folder.to_owned(),
        };
        builder.buildah(&["pull", &format!("docker-archive:{}", image.display())])?;
        Ok(builder)
    }

    /// Builds from the tree in the working directory; the archive of the image.
    pub fn build(&self, dockerfile: &str, name: &str) -> Result<PathBuf> {
        let file = name.replace(['/', ':'], "-");
        let archive = self.folder.join(format!("{file}.tar"));
        let (builder, base) = (format!("BUILDER={BUILDER}"), format!("BASE={BUILDER}"));
        self.buildah(&[
            "build",
            "--isolation=chroot",
            "--pull=never",
            "--build-arg",
            &builder,
            "--build-arg",
            &base,
            "--file",
            dockerfile,
            "--tag",
            name,
            ".",
        ])?;
        // It adds to one that is there.
        let _ = fs::remove_file(&archive);
        let place = format!("docker-archive:{}:{name}", archive.display());
        self.buildah(&["push", name, &place])?;
        Ok(archive)
    }

    fn buildah(&self, arguments: &[&str]) -> Result<()> {
        let (root, run) = (self.folder.join("store"), self.folder.join("run"));
        // It locks a folder of networks, also where it needs none: not that of the machine.
        let settings = self.folder.join("containers.conf");
        let networks = self.folder.join("networks");
        let line = format!(
            "[network]\nnetwork_config_dir = \"{}\"\n",
            networks.display()
        );
        fs::write(&settings, line)?;
        let output = Command::new("buildah")
            .env("CONTAINERS_CONF", &settings)
            .args(["--storage-driver=vfs", "--root"])
            .arg(root)
            .arg("--runroot")
            .arg(run)
            .args(arguments)
            .output()
            .context("starting buildah")?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            bail!("buildah {}: {}", arguments.join(" "), words.trim());
        }
        Ok(())
    }
}

impl Drop for Builder {
    /// The archives stay.
    fn drop(&mut self) {
        for folder in ["store", "run", "networks"] {
            let _ = fs::remove_dir_all(self.folder.join(folder));
        }
    }
}
