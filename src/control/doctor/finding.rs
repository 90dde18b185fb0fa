//! Findings of `doctor`: one line each, with their gravity.
//!
//! Knows: the words and the exit code of an answer. Never: what is looked for, where it is seen.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gravity {
    /// It works now, but could be better or will stop working some time.
    Advice,
    /// Something does not work now.
    Broken,
}

impl Gravity {
    /// The word in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Advice => "advice",
            Self::Broken => "broken",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub gravity: Gravity,
    /// The name of the check.
    pub check: &'static str,
    /// The service; `None`: the finding is about the process or the host.
    pub service: Option<String>,
    /// What was found, with figures. This text and the next two are sentences without a full stop.
    pub found: String,
    /// Why it matters.
    pub why: String,
    /// What to do: a command or a setting, as one types it.
    pub cure: String,
}

impl Finding {
    /// A finding about the process or the host.
    pub(crate) fn new(
        gravity: Gravity,
        found: impl Into<String>,
        why: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self { gravity, check: "", service: None, found: found.into(), why: why.into(), cure: cure.into() }
    }

    /// A finding about something that could be better.
    pub(crate) fn advice(found: impl Into<String>, why: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::new(Gravity::Advice, found, why, cure)
    }

    /// A finding about something that does not work.
    pub(crate) fn broken(found: impl Into<String>, why: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::new(Gravity::Broken, found, why, cure)
    }

    /// The same finding about this service.
    pub(crate) fn of(self, service: &str) -> Self {
        Self { service: Some(service.to_owned()), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gravity, check, service, found, why, cure } = self;
        write!(f, "{} {check}", gravity.name())?;
        if let Some(service) = service {
            write!(f, " {service}")?;
        }
        write!(f, ": {found}. Why: {why}. Do: {cure}")
    }
}

/// The answer to `doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// How many checks were made.
    pub checks: usize,
    /// How many services were examined.
    pub services: usize,
    /// The findings, the worst first.
    pub findings: Vec<Finding>,
    /// The privileges that the process has given up (`--user`), in one line; `None`: it was not asked to.
    pub holds: Option<String>,
}

impl Diagnosis {
    /// The exit code. 0: all is well, 1: there is advice, 2: something is broken.
    pub fn exit_code(&self) -> u8 {
        match self.findings.iter().map(|one| one.gravity).max() {
            None => 0,
            Some(Gravity::Advice) => 1,
            Some(Gravity::Broken) => 2,
        }
    }

    /// The same as a word: `fine`, `advice` or `broken`.
    pub fn verdict(&self) -> &'static str {
        match self.findings.iter().map(|one| one.gravity).max() {
            None => "fine",
            Some(worst) => worst.name(),
        }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services = if self.services == 1 { "service" } else { "services" };
        if self.findings.is_empty() {
            writeln!(f, "fine: {} checks of {} {services} found nothing", self.checks, self.services)?;
        }
        self.findings.iter().try_for_each(|one| writeln!(f, "{one}"))?;
        self.holds.iter().try_for_each(|holds| writeln!(f, "holds: {holds}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_is_the_exit_code_and_each_is_one_line() {
        let advice = Finding::advice("a", "b", "c").of("web");
        let broken = Finding { check: "names", ..Finding::broken("x", "y", "z") };
        let mut diagnosis = Diagnosis { checks: 3, services: 1, findings: Vec::new(), holds: None };
        assert_eq!((diagnosis.exit_code(), diagnosis.verdict()), (0, "fine"));
        assert_eq!(diagnosis.to_string(), "fine: 3 checks of 1 service found nothing\n");
        diagnosis.findings.push(Finding { check: "backlog", ..advice });
        assert_eq!((diagnosis.exit_code(), diagnosis.verdict()), (1, "advice"));
        diagnosis.findings.insert(0, broken);
        assert_eq!((diagnosis.exit_code(), diagnosis.verdict()), (2, "broken"));
        assert_eq!(
            diagnosis.to_string(),
            "broken names: x. Why: y. Do: z\nadvice backlog web: a. Why: b. Do: c\n"
        );
    }
}
