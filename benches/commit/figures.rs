//! Results: a line a run, and tables of medians.

use std::collections::BTreeMap;
use std::fmt;

use crate::pgbench::Run;
use crate::situation::{Contender, Receiver, Situation};

/// A run, and what it was a run of. Its text is a line of the results.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) situation: Situation,
    pub(crate) clients: usize,
    pub(crate) contender: Contender,
    pub(crate) round: usize,
    pub(crate) run: Run,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured { situation, clients, contender, round, run } = self;
        let Run { tps, mean_ms, median_ms, p99_ms, cpu_us_per_commit } = run;
        let (situation, name, level) = (situation.name(), contender.name(), contender.level);
        write!(f, "{situation}\t{clients}\t{name}\t{level}\t{round}\t")?;
        write!(f, "{tps:.1}\t{mean_ms:.4}\t{median_ms:.4}\t{p99_ms:.4}\t{cpu_us_per_commit:.2}")
    }
}

impl Measured {
    /// `None`: a comment, or the heading.
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split('\t').collect();
        let [situation, clients, name, level, round, figures @ ..] = &fields[..] else { return None };
        let mut figures = figures.iter().map(|figure| figure.parse::<f64>().ok());
        let mut next = || figures.next().flatten();
        Some(Measured {
            situation: Situation::parse(situation)?,
            clients: clients.parse().ok()?,
            contender: Contender::parse(name, level)?,
            round: round.parse().ok()?,
            run: Run {
                tps: next()?,
                mean_ms: next()?,
                median_ms: next()?,
                p99_ms: next()?,
                cpu_us_per_commit: next()?,
            },
        })
    }
}

/// The runs of each cell.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<(Situation, usize, Contender), Vec<Run>>);

impl Figures {
    pub(crate) fn parse(results: &str) -> Self {
        let mut figures = Figures::default();
        for measured in results.lines().filter_map(Measured::parse) {
            let Measured { situation, clients, contender, run, .. } = measured;
            figures.0.entry((situation, clients, contender)).or_default().push(run);
        }
        figures
    }

    /// The median of the rounds.
    pub(crate) fn median(
        &self,
        situation: Situation,
        clients: usize,
        contender: Contender,
        of: fn(&Run) -> f64,
    ) -> Option<f64> {
        let mut values: Vec<f64> = self.0.get(&(situation, clients, contender))?.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        // of an even number of rounds the middle of the two
        let middle = [values.len().checked_sub(1)? / 2, values.len() / 2];
        Some(middle.map(|index| values[index]).iter().sum::<f64>() / 2.0)
    }

    fn situations(&self) -> Vec<Situation> {
        let mut situations: Vec<_> = self.0.keys().map(|(situation, ..)| *situation).collect();
        situations.sort_by_key(|situation| (situation.slow, situation.delay, situation.script));
        situations.dedup();
        situations
    }

    /// In Markdown.
    pub(crate) fn tables(&self) -> String {
        self.situations().into_iter().map(|situation| self.table(situation)).collect()
    }

    fn table(&self, situation: Situation) -> String {
        let rounds = self.0.iter().filter(|((of, ..), _)| *of == situation).map(|(_, runs)| runs.len()).min();
        let mut text =
            format!("### {}\n\nMedians of {} rounds.\n", situation.title(), rounds.unwrap_or_default());
        for &clients in situation.clients() {
            let contenders = situation.contenders();
            let local = self.median(situation, clients, contenders[0], |run| run.tps);
            let mean = self.median(situation, clients, contenders[0], |run| run.mean_ms);
            let (Some(local), Some(local_mean)) = (local, mean) else { continue };
            let plural = if clients == 1 { "" } else { "s" };
            text += &format!(
                "\n| {clients} client{plural} | TPS | of local | mean ms | added ms | p50 ms | p99 ms | receiver CPU µs a commit |\n\
                 |---|--:|--:|--:|--:|--:|--:|--:|\n"
            );
            for contender in contenders {
                let median = |of| self.median(situation, clients, contender, of);
                let figures = (
                    median(|run| run.tps),
                    median(|run| run.mean_ms),
                    median(|run| run.median_ms),
                    median(|run| run.p99_ms),
                    median(|run| run.cpu_us_per_commit),
                );
                let (Some(tps), Some(mean), Some(p50), Some(p99), Some(cpu)) = figures else { continue };
                let is_local = contender.receiver == Receiver::Nobody;
                let added = if is_local { String::new() } else { format!("{:.2}", mean - local_mean) };
                let cpu = if is_local { String::new() } else { format!("{cpu:.1}") };
                text += &format!(
                    "| {contender} | {tps:.0} | {:.2} | {mean:.2} | {added} | {p50:.2} | {p99:.2} | {cpu} |\n",
                    tps / local
                );
            }
        }
        text + "\n"
    }
}
