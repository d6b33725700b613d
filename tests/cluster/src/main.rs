//! `synod-cluster run [NAME..]` runs scenarios, `synod-cluster up` and `down` make clusters for
//! people. It is also what runs in the pods of those clusters.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use synod_cluster::product::Product;
use synod_cluster::scenario::{self, Scenario, Settings};
use synod_cluster::{Clusters, Options, pod};
use synod_system::report::Report;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "Real Kubernetes on one Linux machine")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run scenarios
    Run {
        /// Those whose name contains one of these; all when none is given
        names: Vec<String>,
        /// Only list the names
        #[arg(long)]
        list: bool,
        /// Clusters that are there already, as kubeconfigs separated by `:`
        #[arg(long, env = "E2E_KUBECONFIGS", hide_env_values = true)]
        kubeconfigs: Option<String>,
        /// Where state and logs are, in a folder for each scenario; those of failed ones stay
        #[arg(long, default_value = "target/cluster")]
        dir: PathBuf,
    },
    /// Bring clusters up, and keep them until Ctrl-C or `down`
    Up {
        /// How many, each in a region of its own
        #[arg(long, default_value_t = 1)]
        clusters: u8,
        /// Nodes of each
        #[arg(long, default_value_t = 1)]
        nodes: u8,
        /// Milliseconds that a packet takes from one region to another, one way
        #[arg(long, default_value_t = 0)]
        distance: u64,
        /// Also make images of this tree and volumes, and say how to install the chart
        #[arg(long)]
        product: bool,
        #[command(flatten)]
        folder: Folder,
    },
    /// Make the images of this tree and of the scenarios' apps, for a registry: see E2E_IMAGES
    Images {
        /// Where their archives go
        #[arg(default_value = "target/cluster/images")]
        dir: PathBuf,
    },
    /// End the clusters that `up` keeps, or what is left of them
    Down {
        #[command(flatten)]
        folder: Folder,
    },
    /// Between regions: delay the links of REGIONS
    #[command(hide = true)]
    Relay { microseconds: u64, regions: Vec<u8> },
    /// In pods: wait for the end
    #[command(hide = true)]
    Pause,
    /// In pods: answer every request
    #[command(hide = true)]
    Serve { listen: String, text: String },
    /// In pods: ask HOST:PORT
    #[command(hide = true)]
    Ask { whom: String },
    /// In pods: how long connecting to HOST:PORT takes, in milliseconds
    #[command(hide = true)]
    Time { whom: String },
}

#[derive(Args)]
struct Folder {
    /// Where state and logs are
    #[arg(long, default_value = "target/cluster/up")]
    dir: PathBuf,
}

fn main() -> ExitCode {
    let ended = match Arguments::parse().command {
        Command::Run {
            names,
            list,
            kubeconfigs,
            dir,
        } => run(
            &names,
            list,
            &Settings {
                kubeconfigs,
                folder: dir,
            },
        ),
        Command::Up {
            clusters,
            nodes,
            distance,
            product,
            folder,
        } => {
            let options = Options {
                clusters,
                nodes,
                distance: Duration::from_millis(distance),
                folder: folder.dir,
            };
            blocking(up(options, product))
        }
        Command::Images { dir } => images(&dir),
        Command::Down { folder } => synod_cluster::end(&folder.dir).map(|()| ExitCode::SUCCESS),
        Command::Relay {
            microseconds,
            regions,
        } => synod_cluster::relay::run(Duration::from_micros(microseconds), &regions)
            .map(|()| ExitCode::SUCCESS),
        Command::Pause => blocking(pod::pause()).map(|()| ExitCode::SUCCESS),
        Command::Serve { listen, text } => pod::serve(&listen, &text).map(|()| ExitCode::SUCCESS),
        Command::Time { whom } => pod::time(&whom, 20, Duration::from_secs(5)).map(|times| {
            for time in times {
                println!("{time:.2}");
            }
            ExitCode::SUCCESS
        }),
        Command::Ask { whom } => pod::ask(&whom, Duration::from_secs(5)).map(|answer| {
            println!("{answer}");
            ExitCode::SUCCESS
        }),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("synod-cluster: {error:#}");
        ExitCode::FAILURE
    })
}

fn blocking<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(future)
}

async fn up(options: Options, product: bool) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let clusters = tokio::select! {
        clusters = Clusters::up(&options) => clusters?,
        _ = terminate.recv() => return Ok(ExitCode::from(143)),
        _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(130)),
    };
    let megabytes = synod_cluster::memory(&synod_cluster::descendants()) / 1_000_000;
    let seconds = clusters.age().as_secs_f64();
    println!("up after {seconds:.1} s, {megabytes} MB");
    for cluster in clusters.all() {
        let (name, kubeconfig) = (&cluster.name, &cluster.kubeconfig);
        println!("{name}: export KUBECONFIG={}", kubeconfig.display());
    }
    if product {
        let product = Product::assemble(&options.folder.with_extension("images"))?;
        for cluster in clusters.all() {
            product.load(cluster, 4).await?;
        }
        let values = Product::values().map(|it| format!(" --set {it}")).concat();
        println!(
            "helm upgrade --install synod charts/synod -n synod-system --create-namespace --wait{values}"
        );
    }
    println!(
        "Ctrl-C, or `synod-cluster down --dir {}`, ends them",
        options.folder.display()
    );
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    let asked = Instant::now();
    clusters.down()?;
    println!("down after {:.1} s", asked.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

fn images(folder: &Path) -> Result<ExitCode> {
    let product = Product::assemble(folder)?;
    let tools = synod_cluster::images::own(folder)?;
    for archive in product.archives().iter().chain(&tools) {
        println!("{}", archive.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn run(names: &[String], list: bool, settings: &Settings) -> Result<ExitCode> {
    let named = |scenario: &&Scenario| {
        names.is_empty()
            || names
                .iter()
                .any(|name| scenario.name.contains(name.as_str()))
    };
    let chosen: Vec<&Scenario> = scenario::ALL.iter().filter(named).collect();
    if list {
        for scenario in chosen {
            println!("{}", scenario.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if chosen.is_empty() {
        eprintln!("no scenario is named like {names:?}; see --list");
        return Ok(ExitCode::from(64));
    }
    // Programs in other mount namespaces are told of it.
    let settings = &Settings {
        folder: std::path::absolute(&settings.folder)?,
        ..settings.clone()
    };
    synod_cluster::clear(&settings.folder)?;
    let (mut passed, mut failed) = (0, 0);
    for scenario in chosen {
        if settings.kubeconfigs.is_some() && scenario.own_clusters {
            println!("not for clusters that were given: {}", scenario.name);
            continue;
        }
        match one(scenario, settings)? {
            Some(true) => passed += 1,
            Some(false) => failed += 1,
            None => return Ok(ExitCode::from(130)),
        }
    }
    println!("scenarios: {passed} passed, {failed} failed");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A scenario's name as one of a folder.
fn file_name(name: &str) -> String {
    let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    name.chars().take(60).collect()
}

/// Runs one scenario on a runtime of its own; nothing when we were told to end.
fn one(scenario: &Scenario, settings: &Settings) -> Result<Option<bool>> {
    println!("{} ...", scenario.name);
    let settings = &Settings {
        folder: settings.folder.join(file_name(scenario.name)),
        ..settings.clone()
    };
    let began = Instant::now();
    let mut report = Report::default();
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            result = (scenario.run)(settings, &mut report) => Ok(Some(result)),
            _ = tokio::signal::ctrl_c() => Ok(None),
            _ = terminate.recv() => anyhow::Ok(None),
        }
    })?;
    runtime.shutdown_background();
    match result {
        None => return Ok(None),
        Some(Err(error)) => report.fail(format!("{error:#}")),
        Some(Ok(())) => {}
    }
    print!("{}", report.text());
    for problem in report.problems() {
        println!("    FAILED: {problem}");
    }
    let good = report.problems().is_empty();
    let (word, seconds) = (
        if good { "ok  " } else { "FAIL" },
        began.elapsed().as_secs_f64(),
    );
    println!("{word} {} ({seconds:.1} s)", scenario.name);
    Ok(Some(good))
}
