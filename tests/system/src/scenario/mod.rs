//! What is tested, by name.

pub mod agreement;
mod bad_input;
mod bad_states;
mod bare;
mod behind;
mod command_line;
mod disks;
mod idempotent;
mod kills;
mod links;
mod members;
mod noisy;
mod poison;
mod programs;
mod revisions;
mod states;
mod versions;
mod waiting;
mod webdav;
mod witness;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

pub use agreement::check_history;

use crate::report::Report;

/// How long and how hard.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Length of the run with single faults, in seconds.
    pub fault_seconds: u64,
    /// How often all members are killed at once.
    pub kill_all_times: u32,
    /// Keys of the idempotency run.
    pub idempotent_keys: u64,
    /// Operations a second in fault runs.
    pub rate: u32,
    /// How often a member is killed at a named step.
    pub kill_runs: u32,
    /// The longest that this goes on, in seconds.
    pub kill_seconds: u64,
    /// Only at steps whose name contains one of these; all when there is none.
    pub kill_points: Vec<String>,
    /// Size of a state that a group begins with.
    pub import_bytes: u64,
    /// Of all random choices.
    pub seed: u64,
    /// Where histories and reports of failed runs go.
    pub out: PathBuf,
    /// The tree's `tests/apps`.
    pub apps: PathBuf,
    /// The tree's README.
    pub readme: PathBuf,
    /// Where downloaded programs are.
    pub cache: PathBuf,
    /// `synod` as an earlier commit had it.
    pub older: Option<PathBuf>,
}

/// A scenario running.
pub type Running<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;

/// One promise, held against reality.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// To choose it by, as `group/promise`.
    pub name: &'static str,
    /// It has to run in a network of its own, whose links it makes.
    pub own_network: bool,
    /// Runs it; what it finds is in the report, even when it fails.
    pub run: for<'a> fn(&'a Settings, &'a mut Report) -> Running<'a>,
}

macro_rules! scenarios {
    (@ own_network) => { true };
    (@) => { false };
    ($($name:literal => $function:path $(as $network:ident)?,)*) => {
        &[$(Scenario {
            name: $name,
            own_network: scenarios!(@ $($network)?),
            run: |settings, report| Box::pin($function(settings, report)),
        },)*]
    };
}

/// All of them, in the order in which they run.
pub const ALL: &[Scenario] = scenarios! {
    "harness/a bare app that is right passes" => bare::a_correct_app_passes,
    "harness/a bare app that loses writes is found out" => bare::lost_writes_are_found,
    "harness/a bare app that applies writes twice is found out" => bare::doubled_writes_are_found,
    "harness/a bare app that answers stale reads is found out" => bare::stale_reads_are_found,
    "cli/without a command the example app is served and Ctrl-C leaves nothing" => command_line::example_app,
    "cli/the tour of the README works line by line" => command_line::tour,
    "cli/a port that is taken is named" => command_line::port_taken,
    "cli/a command that is missing is named" => command_line::command_missing,
    "cli/a data folder in use is refused" => command_line::data_in_use,
    "cli/a data folder outlives its group and serves the next" => command_line::data_is_kept,
    "input/malformed and oversized requests are refused and change nothing" => bad_input::requests,
    "input/a slow body gets 408" => bad_input::slow_body,
    "input/headers of ours never reach the app" => bad_input::reserved_headers,
    "input/a manifest with an unknown field exits 64 naming it" => bad_input::manifests,
    "input/a peer without a certificate of the group gets nothing" => bad_input::strangers,
    "apps/nginx with WebDAV answers as it does alone" => programs::nginx,
    "apps/json-server answers as it does alone" => programs::json_server,
    "apps/lighttpd's volume becomes three copies, is rolled back and made anew to the last byte" => webdav::volume,
    "apps/lighttpd draws tokens for locks, which is told" => noisy::locks,
    "apps/adminer draws cookies for sessions, which is told" => noisy::sessions,
    "versions/an older sidecar and this one work in one group and agree on the step" => versions::two_versions,
    "group/retries through other members during leader changes are executed once" => idempotent::retries,
    "group/single faults lose nothing and are over within 2 s" => agreement::single_faults,
    "group/all members killed at once lose nothing" => agreement::all_at_once,
    "states/an app in memory is given its snapshot and the tail behind it" => states::restored_in_memory,
    "states/single faults lose nothing while snapshots cut the log" => states::faults_in_memory,
    "states/single faults lose nothing on a volume that is rolled back" => states::faults_rolled_back,
    "states/single faults lose nothing with an app that tells its slot" => states::faults_with_applied,
    "states/requests are replayed as fast as over one connection" => states::replayed_fast,
    "states/snapshots are taken on request and listed" => states::on_request,
    "states/the example app on a volume keeps every note once" => states::example_rolled_back,
    "states/the example app that tells its slot keeps every note once" => states::example_with_applied,
    "members/come, go and are made anew under faults and nothing is lost" => members::come_and_go,
    "waiting/nobody waits longer while snapshots are taken and members made anew" => waiting::nobody_waits,
    "members/two copies and a witness, and either copy is lost and comes back" => witness::either_copy,
    "members/one that is far behind catches up, next to a plain copy" => behind::catches_up,
    "members/a group is restored to the slot before a mistake" => members::restored,
    "members/what an app has stored becomes the state of three copies" => members::imported,
    "kills/at every step of a member lose nothing and nobody stays out" => kills::at_every_step,
    "faults/a full disk of one member is waited for, and nothing is lost" => disks::full,
    "faults/bits that flip while a member is down are repaired, or it is made anew" => disks::flipped,
    "faults/links that are cut, one way too, are done without and nothing is lost" => links::cut as own_network,
    "faults/a group across regions does without a leader and loses nothing" => links::regions as own_network,
    "faults/steps that are slow or fail lose nothing and nobody stays out" => kills::hindered,
    "states/a state that is not saved is told and has no effect" => bad_states::not_saved,
    "states/a state that is refused is told and tried again" => bad_states::not_restored,
    "revisions/the app is changed under faults and each slot is executed by one revision" => revisions::changed,
    "revisions/a command that does not start is taken back and nothing is lost" => revisions::taken_back,
    "revisions/a new version runs along silently, then takes over" => revisions::rolled,
    "revisions/a new version that answers otherwise does not take over, and is taken back" => revisions::disagrees,
    "poison/requests that kill every copy are skipped and nothing else is lost" => poison::kills_all,
    "poison/requests that hang every copy are skipped and nothing else is lost" => poison::hangs_all,
    "poison/what one copy could execute is kept and the others get its state" => poison::one_executes,
    "poison/a member that is away is waited for and promises outlive their processes" => poison::away_and_back,
    "poison/a person gives up a request of which a member that is away may know more" => poison::given_up,
};
