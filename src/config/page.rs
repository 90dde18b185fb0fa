//! `--help`, `--version` and the shell completions, made from the table of options.
//!
//! Knows: how the pages are laid out. It gives the table to `clap`, whose generators write them. Never: the
//! terminal, single options.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, Command, ValueHint};
use clap_complete::aot;

use super::draft::Shell;
use super::options::SECTIONS;
use super::row::{Row, Value};
use super::usage::{ABOUT, CHANNEL, PORT, Positional, help_end, help_synopsis};

/// The width of the help page in columns. It is fixed, so that help does not depend on the terminal or the
/// environment.
const HELP_WIDTH: usize = 80;

/// The whole table as a command of `clap`, for its generators only. Words are split in `split`, not by
/// `clap`.
pub(super) fn command() -> Command {
    let positionals = [positional(&PORT, ValueHint::Other), positional(&CHANNEL, ValueHint::Hostname)];
    let channels = ArgAction::Append;
    let [port, channel] = positionals;
    let options = SECTIONS.iter().flat_map(|(section, rows)| rows.iter().map(|row| option(section, row)));
    Command::new("balance")
        .bin_name("balance")
        .about(ABOUT)
        .override_usage(help_synopsis())
        .after_help(help_end())
        .term_width(HELP_WIDTH)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .arg(port)
        .arg(channel.action(channels))
        .args(options)
}

fn positional(of: &Positional, hint: ValueHint) -> Arg {
    Arg::new(of.name)
        .value_name(of.name)
        .value_hint(hint)
        .help(of.help)
        .long_help(format!("{}\n\n{}", of.help, of.more).trim_end().to_owned())
}

fn option(section: &'static str, row: &Row) -> Arg {
    let default = match row.default {
        "" => String::new(),
        default => format!(" [default: {default}]"),
    };
    let help = format!("{}{default}", row.help);
    let older: String = row.older.iter().map(|name| format!("\n\nOlder name: --{name}.")).collect();
    let arg = Arg::new(row.long)
        .long(row.long)
        .short(row.short)
        .help_heading(section)
        .visible_aliases(row.older)
        .long_help(format!("{help}\n\n{}{older}", row.more).trim_end().to_owned())
        .help(help);
    match row.value {
        Value::Flag => arg.action(ArgAction::SetTrue),
        Value::Word(name) => arg.value_name(name).value_hint(ValueHint::Other),
        Value::Host | Value::Hosts => arg.value_name(row.value.name()).value_hint(ValueHint::Hostname),
        Value::Program => arg.value_name(row.value.name()).value_hint(ValueHint::ExecutablePath),
        Value::Path => arg.value_name(row.value.name()).value_hint(ValueHint::AnyPath),
        Value::OneOf(name, words) => {
            arg.value_name(name).value_parser(PossibleValuesParser::new(words)).hide_possible_values(true)
        }
        Value::Like(name, words) => {
            arg.value_name(name).value_parser(PossibleValuesParser::new(words())).hide_possible_values(true)
        }
    }
}

/// What `--help` prints.
pub(super) fn help() -> String {
    command().about(format!("balance - {ABOUT}")).render_help().to_string()
}

/// What `--version` prints.
pub(super) fn version() -> String {
    format!("balance {}\n", env!("CARGO_PKG_VERSION"))
}

/// The completion script for a shell.
pub(super) fn completions(shell: Shell) -> Vec<u8> {
    let shell = match shell {
        Shell::Bash => aot::Shell::Bash,
        Shell::Zsh => aot::Shell::Zsh,
        Shell::Fish => aot::Shell::Fish,
    };
    let mut command = command();
    if shell == aot::Shell::Bash {
        // There the generator offers names of files in the place of hosts.
        let is_host = |arg: &Arg| arg.get_value_hint() == ValueHint::Hostname;
        command = command.mut_args(|arg| if is_host(&arg) { arg.value_hint(ValueHint::Other) } else { arg });
    }
    let mut script = Vec::new();
    aot::generate(shell, &mut command, "balance", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::super::options::options;
    use super::super::row::Scope;
    use super::*;

    #[test]
    fn every_option_has_a_line_of_help() {
        for row in options() {
            assert!(!row.help.is_empty() && !row.help.ends_with('.'), "--{}", row.long);
            let (help, name) = (help(), format!("--{}", row.long));
            assert!(help.contains(&name), "{name}");
        }
    }

    #[test]
    fn the_completions_in_the_tree_are_these() {
        for (shell, committed) in [
            (Shell::Bash, include_str!("../../dist/completions/balance.bash")),
            (Shell::Zsh, include_str!("../../dist/completions/_balance")),
            (Shell::Fish, include_str!("../../dist/completions/balance.fish")),
        ] {
            let printed = String::from_utf8(completions(shell)).expect("text");
            assert!(
                committed == printed,
                "{shell:?}: out of date; balance --completions SHELL makes it anew"
            );
        }
    }

    #[test]
    fn the_page_of_files_names_all_options_of_the_process() {
        let page = include_str!("../../balance-file.5").replace("\\-", "-");
        for row in options().filter(|row| row.scope == Scope::Process) {
            let name = match row.short {
                Some(short) => format!("\\fB-{short}\\fR"),
                None => format!("\\fB--{}\\fR", row.long),
            };
            assert!(page.contains(&name), "balance-file.5 lacks {name}");
        }
    }

    #[test]
    fn every_shell_completes_every_option() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(completions(shell)).expect("text");
            for row in options() {
                for name in row.names() {
                    assert!(script.contains(name), "{shell:?} does not know --{name}");
                }
            }
        }
    }
}
