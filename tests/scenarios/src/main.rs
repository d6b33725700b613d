//! `synod-scenarios`: runs the scripts, and says which differ from what they say and how.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use synod_scenarios::{Script, find, run, unified};

/// Runs scenario scripts and compares what they say with what happens.
#[derive(Debug, Parser)]
#[command(name = "synod-scenarios")]
struct Arguments {
    /// Only scripts whose name contains one of these, such as `election/`.
    names: Vec<String>,
    /// Say what there is, with its title.
    #[arg(long)]
    list: bool,
    /// Write the output that there is now into the scripts. Where a claim does not hold, nothing is
    /// written.
    #[arg(long)]
    write: bool,
    /// Where the scripts are.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts"))]
    folder: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match carry_out(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("synod-scenarios: {error}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    let mut scripts = find(&arguments.folder)
        .map_err(|error| format!("{}: {error}", arguments.folder.display()))?;
    let wanted = &arguments.names;
    scripts.retain(|(name, _)| wanted.is_empty() || wanted.iter().any(|it| name.contains(it)));
    let (mut passed, mut failed) = (0, 0);
    for (name, path) in scripts {
        let text = std::fs::read_to_string(&path)?;
        let script = match Script::parse(&text) {
            Ok(script) => script,
            Err(malformed) => {
                println!("FAILED {name}: {malformed}");
                failed += 1;
                continue;
            }
        };
        if arguments.list {
            println!("{name}: {}", script.title);
            continue;
        }
        let ran = run(&script);
        let now = ran.now.to_string();
        let differs = now != text;
        if !ran.failed.is_empty() {
            failed += 1;
            println!("FAILED {name}: {}", script.title);
            for claim in &ran.failed {
                println!("  {claim}");
            }
            for line in unified(&text, &now) {
                println!("  {line}");
            }
            if arguments.write {
                println!("  not written: first make its claims hold");
            }
        } else if differs && arguments.write {
            std::fs::write(&path, now)?;
            println!("wrote {name}");
            passed += 1;
        } else if differs {
            failed += 1;
            println!("FAILED {name}: it does not say what happens");
            for line in unified(&text, &now) {
                println!("  {line}");
            }
            println!("  If that is meant: tests/run scenarios -- --write {name}");
        } else {
            passed += 1;
            println!("ok {name}");
        }
    }
    if !arguments.list {
        println!("scenarios: passed={passed} failed={failed}");
    }
    Ok(failed == 0 && (arguments.list || passed > 0))
}
