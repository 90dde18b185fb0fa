//! The lines of the access log.
//!
//! Knows: the keys, their order, their units. Never: where a line goes.
//! Source: docs/observability.md, "The access log".

use std::fmt::{self, Write};
use std::time::Duration;

use serde::Serialize;
use serde::ser::Serializer;

use super::{
    ATTEMPTS_TOLD, AccessMoment, AccessRecord, AttemptError, ConnectionTrace, FailedAttempt, PathInfo,
    name_of,
};
use crate::observe::event::{ClientName, Quoted};
use crate::observe::history::utc;
use crate::sched::{Address, ChannelKey, ClientSource, DialCause};

/// The format of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineStyle {
    /// `key=value key=value`.
    Text,
    /// A JSON object.
    Json,
}

/// Appends the line of a record, including its line break.
pub fn write_line(out: &mut Vec<u8>, format: LineStyle, record: &AccessRecord) {
    match format {
        // Writing to memory cannot fail, and JSON can express every value of a line.
        LineStyle::Text => out.extend_from_slice(Text(record).to_string().as_bytes()),
        LineStyle::Json => _ = serde_json::to_writer(&mut *out, &Object::of(record)),
    }
    out.push(b'\n');
}

impl AccessMoment {
    fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::MovedOn => "moved_on",
            Self::Open => "open",
            Self::End(_) => "end",
        }
    }
}

impl fmt::Display for AttemptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(cause) => cause.fmt(f),
            Self::System(number) => {
                // Uses the same words as other messages. For an error that std does not classify, only the
                // system's text says anything.
                let error = std::io::Error::from_raw_os_error(*number);
                let kind = error.kind().to_string();
                write!(f, "{}: ", DialCause::Other)?;
                if kind == "uncategorized error" { error.fmt(f) } else { f.write_str(&kind) }
            }
        }
    }
}

/// Prints seconds with six decimals.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0.as_secs(), self.0.subsec_micros())
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        // An `f64` is exact enough for a century.
        to.serialize_f64(self.0.as_micros() as f64 / 1e6)
    }
}

/// A value, or `-` if there is none.
struct OrDash<T>(Option<T>);

impl<T: fmt::Display> fmt::Display for OrDash<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_char('-'),
        }
    }
}

/// Every line has all keys, so that values can also be found by their position.
struct Text<'a>(&'a AccessRecord);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AccessRecord { service, id, trace, channel, lasted, sent_bytes, rcvd_bytes, paths, moment } =
            self.0;
        let service = name_of(service);
        write!(f, "time={} event={} id={id}", utc(trace.began), moment.word())?;
        write!(
            f,
            " service={} client={}",
            OrDash(service.as_deref().map(Quoted)),
            ClientName(&trace.peers.client())
        )?;
        write!(f, " group={}", OrDash(channel.map(|key| key.group.index())))?;
        write!(
            f,
            " channel={} address={}",
            OrDash(channel.map(|key| key.channel.index())),
            OrDash(trace.address)
        )?;
        write!(f, " duration={} queue={}", Seconds(*lasted), OrDash(trace.queued.map(Seconds)))?;
        write!(f, " connect={}", OrDash(trace.connect.map(Seconds)))?;
        write!(f, " first_byte={}", OrDash(trace.first_byte.map(Seconds)))?;
        write!(f, " sent={sent_bytes} rcvd={rcvd_bytes} attempts={}", trace.attempts)?;
        match &trace.failed[..] {
            [] => f.write_str(" failed=-")?,
            failed => write!(f, " failed={}", Quoted(&Failed(failed).to_string()))?,
        }
        for (side, path) in ["client", "channel"].into_iter().zip(paths) {
            write!(f, " {side}_rtt={}", OrDash(path.map(|path| Seconds(path.rtt))))?;
            write!(f, " {side}_retransmits={}", OrDash(path.map(|path| path.retransmits)))?;
        }
        match moment {
            AccessMoment::End(end) => write!(f, " end={}", Quoted(&end.to_string()))?,
            AccessMoment::Start | AccessMoment::MovedOn | AccessMoment::Open => f.write_str(" end=-")?,
        }
        write!(f, " via={} port={}", OrDash(trace.peers.via()), OrDash(port(trace)))
    }
}

fn port(trace: &ConnectionTrace) -> Option<u16> {
    Some(trace.came_to).filter(|&port| port != 0)
}

/// `0/1 10.0.0.1:80 connection refused; 0/2 ...`
struct Failed<'a>(&'a [FailedAttempt]);

impl fmt::Display for Failed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, FailedAttempt { channel: ChannelKey { group, channel }, address, error }) in
            self.0.iter().enumerate().take(ATTEMPTS_TOLD)
        {
            let comma = if number == 0 { "" } else { "; " };
            write!(f, "{comma}{}/{} {address} {error}", group.index(), channel.index())?;
        }
        Ok(())
    }
}

/// The same keys as in the text format, as a JSON object.
#[derive(Serialize)]
struct Object<'a> {
    time: String,
    event: &'static str,
    id: u64,
    service: Option<String>,
    client: Option<ClientSource>,
    group: Option<usize>,
    channel: Option<usize>,
    address: Option<Address>,
    duration: Seconds,
    queue: Option<Seconds>,
    connect: Option<Seconds>,
    first_byte: Option<Seconds>,
    sent: u64,
    rcvd: u64,
    attempts: u32,
    failed: Vec<FailedObject<'a>>,
    client_rtt: Option<Seconds>,
    client_retransmits: Option<u32>,
    channel_rtt: Option<Seconds>,
    channel_retransmits: Option<u32>,
    end: Option<String>,
    via: Option<ClientSource>,
    port: Option<u16>,
}

#[derive(Serialize)]
struct FailedObject<'a> {
    group: usize,
    channel: usize,
    address: &'a Address,
    error: String,
}

impl<'a> Object<'a> {
    fn of(record: &'a AccessRecord) -> Self {
        let AccessRecord { service, id, trace, channel, lasted, sent_bytes, rcvd_bytes, paths, moment } =
            record;
        let failed = trace.failed.iter().map(|one| FailedObject {
            group: one.channel.group.index(),
            channel: one.channel.channel.index(),
            address: &one.address,
            error: one.error.to_string(),
        });
        let rtt = |path: Option<PathInfo>| path.map(|path| Seconds(path.rtt));
        let retransmits = |path: Option<PathInfo>| path.map(|path| path.retransmits);
        Self {
            time: utc(trace.began).to_string(),
            event: moment.word(),
            id: *id,
            service: name_of(service).map(|name| name.to_string()),
            client: Some(trace.peers.client()).filter(|client| !client.is_unknown()),
            group: channel.map(|key| key.group.index()),
            channel: channel.map(|key| key.channel.index()),
            address: trace.address,
            duration: Seconds(*lasted),
            queue: trace.queued.map(Seconds),
            connect: trace.connect.map(Seconds),
            first_byte: trace.first_byte.map(Seconds),
            sent: *sent_bytes,
            rcvd: *rcvd_bytes,
            attempts: trace.attempts,
            failed: failed.collect(),
            client_rtt: rtt(paths[0]),
            client_retransmits: retransmits(paths[0]),
            channel_rtt: rtt(paths[1]),
            channel_retransmits: retransmits(paths[1]),
            end: match moment {
                AccessMoment::End(end) => Some(end.to_string()),
                AccessMoment::Start | AccessMoment::MovedOn | AccessMoment::Open => None,
            },
            via: trace.peers.via(),
            port: port(trace),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;
    use crate::sched::{End, Loss, NoChannel};

    fn record(service: Option<&str>, moment: AccessMoment) -> AccessRecord {
        let began = SystemTime::UNIX_EPOCH + Duration::from_millis(1_764_374_399_123);
        let mut trace = ConnectionTrace::new(
            SocketAddr::from(([192, 0, 2, 7], 51234)).into(),
            8_080,
            began,
            Duration::ZERO,
        );
        let key = |number| ChannelKey::new(0, number).expect("a small number");
        trace.failed(key(0), ([10, 0, 0, 4], 80).into(), AttemptError::Known(DialCause::Refused));
        trace.failed(key(1), ([10, 0, 0, 4], 81).into(), AttemptError::Known(DialCause::NoAnswer));
        trace.connected(Some(([10, 0, 0, 5], 80).into()), Duration::from_micros(1_234));
        trace.first_byte = Some(Duration::from_micros(4_000));
        let service = Arc::new(std::sync::RwLock::new(service.map(Arc::from)));
        let path = PathInfo { rtt: Duration::from_micros(42), retransmits: 3 };
        AccessRecord {
            service,
            id: 17,
            trace,
            channel: Some(key(2)),
            lasted: Duration::from_micros(12_345_678),
            sent_bytes: 512,
            rcvd_bytes: 90_210,
            paths: [Some(path), None],
            moment,
        }
    }

    fn line(format: LineStyle, record: &AccessRecord) -> String {
        let mut out = Vec::new();
        write_line(&mut out, format, record);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_line_has_all_keys_in_one_order() {
        assert_eq!(
            line(LineStyle::Text, &record(Some("web"), AccessMoment::End(End::ClientClosed))),
            "time=2025-11-28T23:59:59.123Z event=end id=17 service=web client=192.0.2.7:51234 group=0 channel=2 \
             address=10.0.0.5:80 duration=12.345678 queue=- connect=0.001234 first_byte=0.004000 sent=512 rcvd=90210 \
             attempts=3 failed=\"0/0 10.0.0.4:80 connection refused; 0/1 10.0.0.4:81 no answer in time\" \
             client_rtt=0.000042 client_retransmits=3 channel_rtt=- channel_retransmits=- end=\"client closed\" via=- \
             port=8080\n"
        );
        let lost = AccessMoment::End(End::Lost(Loss::NoChannel(NoChannel::Full)));
        let mut none = record(None, lost);
        none.trace = ConnectionTrace::new(
            SocketAddr::from(([0, 0, 0, 0], 0)).into(),
            0,
            none.trace.began,
            Duration::ZERO,
        );
        (none.channel, none.paths) = (None, [None; 2]);
        let text = line(LineStyle::Text, &none);
        assert_eq!(text.matches("=-").count(), 15, "{text}");
        let keys = |text: &str| -> Vec<String> {
            let bare: String = text.split('"').step_by(2).collect();
            bare.split_whitespace()
                .map(|pair| pair.split('=').next().unwrap_or_default().to_owned())
                .collect()
        };
        let full = line(LineStyle::Text, &record(None, AccessMoment::Start));
        assert_eq!(keys(&text), keys(&full));
    }

    #[test]
    fn json_says_the_same_with_numbers_and_nulls() {
        let text = line(LineStyle::Json, &record(Some("web"), AccessMoment::Open));
        let object: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(object["duration"], 12.345678);
        assert_eq!(object["failed"][1]["error"], "no answer in time");
        assert_eq!((&object["event"], &object["end"]), (&"open".into(), &serde_json::Value::Null));
        let keys: Vec<&String> = object.as_object().expect("an object").keys().collect();
        let full = line(LineStyle::Text, &record(Some("web"), AccessMoment::Start));
        assert!(keys.iter().all(|key| full.contains(&format!("{key}="))), "{keys:?}");
        assert_eq!(keys.len(), full.split('"').step_by(2).collect::<String>().matches('=').count());
    }

    #[test]
    fn nothing_that_somebody_else_says_ends_a_line_or_begins_a_key() {
        for hostile in ["a b", "x\nevent=end", "\u{1b}[2J", "\" end=x", "a=b", "\u{2028}", ""] {
            let mut hostile_one = record(Some(hostile), AccessMoment::Start);
            let key = ChannelKey::new(0, 0).expect("a small number");
            hostile_one.trace.failed(key, ([0, 0, 0, 0], 1).into(), AttemptError::System(71));
            for format in [LineStyle::Text, LineStyle::Json] {
                let text = line(format, &hostile_one);
                assert_eq!(text.matches('\n').count(), 1, "{text:?}");
                assert!(!text.trim_end().chars().any(char::is_control), "{text:?}");
            }
            let text = line(LineStyle::Text, &hostile_one);
            let bare: String = text.replace("\\\"", "").split('"').step_by(2).collect();
            assert_eq!(bare.matches(" end=").count(), 1, "{text:?}");
        }
    }

    #[test]
    fn of_many_attempts_the_first_are_told_and_all_counted() {
        let mut many = record(None, AccessMoment::Start);
        for _ in 0..1_000 {
            let key = ChannelKey::new(0, 9).expect("a small number");
            many.trace.failed(key, ([0, 0, 0, 0], 1).into(), AttemptError::Known(DialCause::NoAnswer));
        }
        assert_eq!((many.trace.failed.len(), many.trace.attempts), (ATTEMPTS_TOLD, 1_003));
        assert!(line(LineStyle::Text, &many).len() < 1_500);
    }
}
