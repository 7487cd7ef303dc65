//! What the checks found, as lines for people and as JSON for programs. The JSON has a version: fields are
//! added to it, never renamed or taken away, as long as that number stays.

use std::fmt;

use serde::Serialize;

/// Version of the JSON form.
const VERSION: u32 = 1;

/// How a thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// A load works, but slower or with less than it could.
    Warn,
    /// A load does not work, or not rightly.
    Fail,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it stands.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
    /// What to do about it; nothing where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Check {
    pub(super) fn ok(name: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Ok, seen: seen.into(), advice: None }
    }

    pub(super) fn warn(name: impl Into<String>, seen: impl Into<String>, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into());
        Self { name: name.into(), verdict: Verdict::Warn, seen: seen.into(), advice }
    }

    pub(super) fn fail(name: impl Into<String>, seen: impl Into<String>, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into());
        Self { name: name.into(), verdict: Verdict::Fail, seen: seen.into(), advice }
    }
}

/// All findings, by group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    groups: Vec<(&'static str, Vec<Check>)>,
}

/// The form of [`Report::json`].
#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    verdict: Verdict,
    checks: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    group: &'a str,
    #[serde(flatten)]
    check: &'a Check,
}

impl Report {
    pub(super) fn add(&mut self, group: &'static str, checks: Vec<Check>) {
        if !checks.is_empty() {
            self.groups.push((group, checks));
        }
    }

    /// The worst finding.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.checks().map(|(_, check)| check.verdict).max().unwrap_or(Verdict::Ok)
    }

    /// For programs: `{"version":1,"verdict":...,"checks":[{"group","name","verdict","seen","advice"}]}`.
    pub fn json(&self) -> serde_json::Result<String> {
        let checks = self.checks().map(|(group, check)| Line { group, check }).collect();
        serde_json::to_string_pretty(&Document { version: VERSION, verdict: self.verdict(), checks })
    }

    fn checks(&self) -> impl Iterator<Item = (&'static str, &Check)> {
        self.groups.iter().flat_map(|(group, checks)| checks.iter().map(move |check| (*group, check)))
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.checks().filter(|(_, check)| check.verdict == verdict).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks().map(|(_, check)| check.name.chars().count()).max().unwrap_or(0);
        for (group, checks) in &self.groups {
            writeln!(f, "{group}")?;
            for Check { name, verdict, seen, advice } in checks {
                writeln!(f, "  {verdict:<4}  {name:<width$}  {seen}")?;
                if let Some(advice) = advice {
                    writeln!(f, "  {:<4}  {:<width$}  -> {advice}", "", "")?;
                }
            }
        }
        let (failed, warned) = (self.count(Verdict::Fail), self.count(Verdict::Warn));
        writeln!(f, "{} checks: {failed} failed, {warned} with a warning", self.checks().count())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides_and_advice_stands_below() {
        let mut report = Report::default();
        assert_eq!(report.verdict(), Verdict::Ok);
        report.add("empty", Vec::new());
        report
            .add("kernel", vec![Check::ok("gate", "pre-content"), Check::warn("tracefs", "no", "mount it")]);
        report.add("network", vec![Check::fail("clock", "an hour ahead", "set it")]);
        assert_eq!(report.verdict(), Verdict::Fail);
        let text = "kernel\n  ok    gate     pre-content\n  warn  tracefs  no\n                 -> mount it\n\
                    network\n  FAIL  clock    an hour ahead\n                 -> set it\n\
                    3 checks: 1 failed, 1 with a warning\n";
        assert_eq!(report.to_string(), text);
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["version"], 1);
        assert_eq!(json["verdict"], "fail");
        assert_eq!(json["checks"][2]["group"], "network");
        assert_eq!(json["checks"][2]["advice"], "set it");
        assert!(json["checks"][0].get("advice").is_none());
    }
}
