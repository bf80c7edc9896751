//! The tables that benches print.
//!
//! Owns how numbers stand beside their aims, and what is said of the machine they come from.
//! Knows nothing of what is measured.

#![allow(dead_code, reason = "not every bench needs all of it")]

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Numbers of one kind.
pub struct Sample(pub Vec<f64>);

impl Sample {
    /// The one in the middle.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The value below which this share lies.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * share).round() as usize]
    }
}

/// The heads of the columns.
pub fn head() {
    println!("{:<46}{:>9}{:>9}{:>9}{:>7}", "", "median", "p10", "aim", "ratio");
}

/// One line of the table. The ratio is that of the median to the aim: 1 or less meets it.
pub fn row(name: &str, sample: &Sample, aim: Option<f64>) {
    let [median, low] = [0.5, 0.1].map(|share| sample.quantile(share));
    let digits = if median.fract() == 0.0 { 0 } else { 2 };
    let low = if sample.0.len() > 1 { format!("{low:.digits$}") } else { String::new() };
    let (aim, ratio) = match aim {
        Some(aim) if aim.fract() == 0.0 => (format!("{aim}"), format!("{:.2}", median / aim)),
        Some(aim) => (format!("{aim:.1}"), format!("{:.2}", median / aim)),
        None => Default::default(),
    };
    println!("{name:<46}{median:>9.digits$}{low:>9}{aim:>9}{ratio:>7}");
}

/// What the numbers depend on.
pub fn conditions(program: &str, rounds: usize, load_before: &str) {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let cpuinfo = read("/proc/cpuinfo");
    let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let profile = Path::new(program).parent().and_then(Path::file_name).unwrap_or_default();
    println!(
        "profile {}, {cores} cores{}, {} {}, load {load_before} before and {} after, {rounds} rounds\n",
        profile.display(),
        cpu.trim_start().replacen(':', " of", 1),
        std::env::consts::OS,
        kernel.trim(),
        load(),
    );
}

/// The processes that ran or waited to, on average over the last minute.
pub fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().to_owned()
}

/// For a table.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
