//! Lines typed at a terminal, with editing, completion and history.
//!
//! Knows: the terminal, the names of commands, the history file. Never: the instance, what a command means.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use crate::control::command::COMMANDS;

/// The operator's terminal. Dropping it saves the history.
pub(crate) struct Terminal {
    editor: Editor<Words, FileHistory>,
    history: Option<PathBuf>,
}

impl Terminal {
    /// `None` if stdin or stdout is not a terminal.
    pub(crate) fn open(history: Option<&Path>) -> Option<Self> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return None;
        }
        let config = Config::builder().auto_add_history(true).completion_type(CompletionType::List).build();
        let mut editor = Editor::with_config(config).ok()?;
        editor.set_helper(Some(Words));
        let history = history.filter(|path| make_private(path).is_ok()).map(Path::to_owned);
        if let Some(path) = &history {
            // If the history cannot be read, it starts empty.
            let _ = editor.load_history(path);
        }
        Some(Self { editor, history })
    }

    /// Reads the next line; `None` at the end of input. Ctrl-C drops what was typed so far.
    pub(crate) fn line(&mut self, prompt: &str) -> Option<String> {
        loop {
            match self.editor.readline(prompt) {
                Ok(line) => return Some(line),
                Err(ReadlineError::Interrupted) => {}
                Err(_) => return None,
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(path) = &self.history {
            // If the history cannot be saved, the session itself was still fine.
            let _ = self.editor.append_history(path);
        }
    }
}

/// Creates the file so that only its owner can read it, because the history contains host names.
fn make_private(path: &Path) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).map(drop)
}

/// Commands for which `json` is completed.
const WITH_JSON: [&str; 8] =
    ["show", "status", "sessions", "ended", "services", "events", "doctor", "denied"];

/// Completes the names of commands, and `json` after those that take it.
struct Words;

impl Completer for Words {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(candidates(line.get(..at).unwrap_or(line)))
    }
}

impl Helper for Words {}
impl Highlighter for Words {}
impl Validator for Words {}
impl Hinter for Words {
    type Hint = String;
}

/// Where the word before the cursor starts, and its possible completions.
fn candidates(typed: &str) -> (usize, Vec<String>) {
    let command = typed.rfind(';').map_or(0, |at| at + 1);
    let start = typed.len() - typed[command..].trim_start().len();
    let word = &typed[start..];
    if let Some((before, last)) = word.rsplit_once(char::is_whitespace) {
        // All other arguments are numbers and hosts.
        let takes = before.split_whitespace().next().is_some_and(|name| WITH_JSON.contains(&name));
        let json = Some("json").filter(|json| takes && json.starts_with(last) && !before.ends_with(json));
        return (typed.len() - last.len(), json.map(str::to_owned).into_iter().collect());
    }
    let mut names: Vec<String> =
        COMMANDS.iter().map(|row| row.name.to_owned()).filter(|name| name.starts_with(word)).collect();
    if let [only] = names.as_mut_slice() {
        only.push(' ');
    }
    (start, names)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::control::command::parse;
    use crate::control::scratch::Scratch;

    #[test]
    fn names_of_commands_are_completed() {
        assert_eq!(candidates("mr"), (0, vec!["mrtg-bytes".to_owned(), "mrtg-conns".to_owned()]));
        assert_eq!(candidates("group 1;  di"), (10, vec!["disable ".to_owned()]));
        assert_eq!(candidates("disable d"), (8, vec![]));
        assert_eq!(candidates("disable "), (8, vec![]));
        for (typed, at) in [("show ", 5), ("group 1; sessions 3 j", 20), ("services  json", 10)] {
            assert_eq!(candidates(typed), (at, vec!["json".to_owned()]), "{typed}");
        }
        assert_eq!(candidates("show x"), (5, vec![]));
        assert_eq!(candidates("show json "), (10, vec![]));
        assert_eq!(candidates("x"), (0, vec![]));
        assert_eq!(candidates("").1.len(), COMMANDS.len());
    }

    #[test]
    fn json_is_completed_where_the_parser_takes_it() {
        for row in COMMANDS {
            let command = format!("{:?}", parse(format!("{} json", row.name).as_bytes()));
            assert_eq!(WITH_JSON.contains(&row.name), command.contains("Json"), "{command}");
        }
    }

    #[test]
    fn the_history_is_for_its_owner_only() {
        let scratch = Scratch::new();
        let path = scratch.path().join("state/balance/history");
        make_private(&path).expect("made");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        fs::write(&path, "show\n").expect("written");
        make_private(&path).expect("still there");
        assert_eq!(fs::read(&path).expect("read"), b"show\n");
        assert!(make_private(Path::new("/proc/no/where")).is_err());
    }
}
