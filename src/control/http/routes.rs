//! The answer of each path.
//!
//! Knows: the paths, what is looked at for each. Never: sockets, how a request or an answer looks on the
//! wire.
//! Source: docs/observability.md, "Metrics and probes by HTTP".

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::answer::{Answer, MediaType};
use super::head::{PostedBody, Request};
use super::orders::{self, HttpOrder, OrderOutcome, OrderParts};
use super::page::{self, PageParts};
use super::question::PageQuestion;
use super::sight::Lookout;
use crate::control::json;
use crate::control::metrics::{Exposition, Ledger, Scene, SceneService, render};
use crate::control::ready::{ReadyState, are_ready, lines};
use crate::control::services::{ManagedService, Services, Unclear};
use crate::control::vitals::Vitals;
use crate::control::wire::printable;

/// The list of paths, shown for a path that does not exist.
const INDEX: &str = "balance\n\n/                 the page, for browsers\n/metrics          for Prometheus\n/healthz          the process answers\n\
                     /readyz           every service has a usable channel\n/readyz/SERVICE   this one has\n";

/// One more line of that list, if commands are taken.
const COMMANDS: &str = "/api/v1/command   a command, by POST and with the token\n";

/// Answers requests.
pub(crate) struct Site {
    services: Arc<Services>,
    vitals: Box<dyn Fn() -> Vitals + Send>,
    ledger: Ledger,
    lookout: Lookout,
    orders: Option<OrderParts>,
}

impl Site {
    pub(crate) fn new(
        services: Arc<Services>,
        orders: Option<OrderParts>,
        vitals: Box<dyn Fn() -> Vitals + Send>,
    ) -> Self {
        let lookout = Lookout::new(Arc::clone(&services));
        Self { services, vitals, ledger: Ledger::default(), lookout, orders }
    }

    /// The time until [`Site::tick`] has something to do.
    pub(crate) fn until_tick(&self) -> Duration {
        self.lookout.until_sample()
    }

    /// Does what is due without a request: takes a sample for the history.
    pub(crate) fn tick(&mut self) {
        self.lookout.sample();
    }

    /// The answer to a request; `from` is the client's address.
    pub(crate) fn answer(&mut self, request: &Request, from: Option<IpAddr>) -> Answer {
        if let Some(posted) = &request.posted {
            return self.command(request, posted, from);
        }
        match request.path.as_str() {
            "/healthz" => Answer::plain(200, "ok\n"),
            "/readyz" => readiness(&ReadyState::of_all(&self.services)),
            "/metrics" => {
                let (content, exposition) = match request.wants_openmetrics {
                    true => (MediaType::OpenMetrics, Exposition::OpenMetrics),
                    false => (MediaType::Prometheus, Exposition::Prometheus),
                };
                let scene = self.scene();
                Answer::new(200, content, render(&scene, &mut self.ledger, exposition))
            }
            "/" => self.page(&PageQuestion::read(&request.query)),
            "/page.css" => Answer::new(200, MediaType::Css, page::STYLE),
            "/page.js" => Answer::new(200, MediaType::JavaScript, page::SCRIPT),
            "/icon.svg" => Answer::new(200, MediaType::Svg, page::ICON),
            path => match path.strip_prefix("/readyz/") {
                Some(word) => self.readiness_of(word),
                None => {
                    let commands = if self.orders.is_some() { COMMANDS } else { "" };
                    Answer::plain(404, format!("not found\n\n{INDEX}{commands}"))
                }
            },
        }
    }

    /// Carries out a command of a program or script (`/api/v1/command`) or of a form (`/command`).
    fn command(&mut self, request: &Request, posted: &PostedBody, from: Option<IpAddr>) -> Answer {
        let is_form = request.path == "/command";
        let order = if is_form {
            HttpOrder::of_form(&posted.body)
        } else {
            HttpOrder::of_api(&request.query, posted)
        };
        let outcome =
            orders::carry_out(self.orders.as_ref(), &self.services, &order, posted.is_cross_site, from);
        // The next answer must show what the command has changed.
        self.lookout.forget();
        let OrderOutcome { status, code, text, is_json } = outcome;
        let answer = match (is_form, is_json, request.wants_json) {
            (true, ..) => match page::answer_page(&order.command_text(), &text, code) {
                Ok(page) => Answer::new(status, MediaType::Html, page),
                Err(error) => Answer::plain(500, format!("the page cannot be made: {error}\n")),
            },
            (_, true, _) => Answer::new(status, MediaType::Json, text),
            (_, _, true) => Answer::new(status, MediaType::Json, json::command_answer(&text, code)),
            (_, _, false) => Answer::new(status, MediaType::Plain, text),
        };
        answer.ended(code)
    }

    fn page(&mut self, asked: &PageQuestion) -> Answer {
        self.lookout.look();
        let has_sessions = self.lookout.look_at_sessions(asked.wants_sessions);
        let Some(seen) = self.lookout.seen() else { return Answer::plain(500, "nothing to see\n") };
        if asked.service.as_ref().is_some_and(|wanted| seen.services.iter().all(|one| one.label != *wanted)) {
            return Answer::plain(404, "no such service\n");
        }
        let parts = PageParts {
            asked,
            seen,
            history: &self.lookout.history,
            now: self.lookout.now(),
            vitals: &(self.vitals)(),
            sessions: has_sessions.then(|| self.lookout.sessions()),
            can_change: self.orders.is_some(),
        };
        match page::page(&parts) {
            Ok(page) => Answer::new(200, MediaType::Html, page),
            Err(error) => Answer::plain(500, format!("the page cannot be made: {error}\n")),
        }
    }

    fn readiness_of(&self, word: &str) -> Answer {
        let shown = printable(word.as_bytes()).replace('\n', "?");
        match self.services.find_labelled(word) {
            Ok(service) => readiness(&[ReadyState::of(&service)]),
            Err(Unclear::Unknown) => Answer::plain(404, format!("no such service {shown}\n")),
            Err(Unclear::Several(labels)) => {
                Answer::plain(404, format!("{shown} matches several services: {}\n", labels.join(", ")))
            }
        }
    }

    fn scene(&self) -> Scene {
        let services = self.services.labelled();
        let services = services.into_iter().map(|(label, service)| seen(&service, label)).collect();
        Scene { services, vitals: (self.vitals)() }
    }
}

fn seen(service: &ManagedService, label: String) -> SceneService {
    let table = service.survey();
    let waiting = service.table.lock_at((service.now)()).waiting();
    SceneService {
        owner: service.log.owner(),
        label,
        table,
        connections: (service.plane.connections)(),
        waiting,
        is_draining: service.is_killed(),
        is_ready: service.is_ready(),
    }
}

fn readiness(all: &[ReadyState]) -> Answer {
    match are_ready(all) {
        true => Answer::plain(200, "ok\n"),
        false => Answer::plain(503, lines(all)),
    }
}
