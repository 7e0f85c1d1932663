//! Dashboard and alerts speak of metrics that the program really has.

use std::collections::BTreeSet;

use super::harness::Scrape;

/// Whatever begins as a metric of ours does, in queries and in words.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let words = text.split(|character| !is_part(character)).filter(|word| word.starts_with("pgwake_"));
    words.map(str::to_owned).collect()
}

fn read(name: &str) -> String {
    let path = format!("{}/contrib/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A scrape of a receiver that has everything to tell.
#[track_caller]
pub(super) fn assert_known(scrape: &Scrape) {
    let exposed = scrape.0.keys().map(|sample| sample.split('{').next().unwrap_or(sample).to_owned());
    let mut exposed: BTreeSet<String> = exposed.collect();
    // of a histogram people speak without saying which of its series
    let families: Vec<_> =
        exposed.iter().filter_map(|name| name.strip_suffix("_bucket")).map(str::to_owned).collect();
    exposed.extend(families);
    let dashboard = read("grafana-dashboard.json");
    serde_json::from_str::<serde_json::Value>(&dashboard).expect("a dashboard in JSON");
    for (file, text) in [("dashboard", dashboard), ("rules", read("prometheus-rules.yml"))] {
        let used = names(&text);
        assert!(used.len() > 8, "{file}: {used:?}");
        let unknown: Vec<_> = used.difference(&exposed).collect();
        assert!(unknown.is_empty(), "{file} speaks of {unknown:?}, which are not exposed");
    }
}
