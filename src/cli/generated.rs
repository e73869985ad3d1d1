//! `completions`, `man` and `schema`: texts made of what the program itself knows.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, ValueHint};
use clap_complete::Shell;

use super::{Cli, failed, output};
use crate::config;

const NAME: &str = "appsync-bridge";

/// Print the completions of a shell
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  appsync-bridge completions bash > /usr/share/bash-completion/completions/appsync-bridge
  appsync-bridge completions zsh > /usr/share/zsh/vendor-completions/_appsync-bridge
  appsync-bridge completions fish > ~/.config/fish/completions/appsync-bridge.fish

Exit codes: 0 done, 1 can't be written, 2 usage.")]
pub struct Completions {
    shell: Shell,
}

/// Print the manual page, or write one for each command
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  appsync-bridge man | man -l -
  appsync-bridge man --directory /usr/local/share/man/man1

Exit codes: 0 done, 1 can't be written, 2 usage, 77 permissions.")]
pub struct Man {
    /// Write the page of each command into this directory, which is there
    #[arg(short, long, value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
    directory: Option<PathBuf>,
}

/// Print the JSON Schema of a configuration, for editors
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
An editor that knows TOML (Taplo, Even Better TOML) takes it from the first line of a configuration:
  #:schema ./bridge.schema.json

Examples:
  appsync-bridge schema > bridge.schema.json
  appsync-bridge schema --reference | less

Exit codes: 0 done, 1 can't be written, 2 usage.")]
pub struct Schema {
    /// Print every key with its type, default, meaning and an example, as Markdown, instead
    #[arg(long)]
    reference: bool,
}

/// Prints completions.
pub fn completions(args: &Completions) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), NAME, &mut text);
    print(&text)
}

/// Prints the manual page, or writes all.
pub fn man(args: &Man) -> ExitCode {
    let command = Cli::command().disable_help_subcommand(true);
    let Some(directory) = &args.directory else {
        let mut page = Vec::new();
        // What is written to memory is always written.
        let _ = clap_mangen::Man::new(command).render(&mut page);
        return print(&page);
    };
    let written = clap_mangen::generate_to(command, directory)
        .with_context(|| format!("can't write into {}", directory.display()));
    written.map_or_else(|why| failed(&why), |()| ExitCode::SUCCESS)
}

/// Prints the schema, or the page of every key.
pub fn schema(args: &Schema) -> ExitCode {
    if args.reference {
        return print(config::reference().as_bytes());
    }
    print(format!("{:#}\n", config::schema()).as_bytes())
}

/// None of it can hold a secret: all is known when the program is built.
fn print(text: &[u8]) -> ExitCode {
    output::print_as_is(text).map_or_else(|code| code, |()| ExitCode::SUCCESS)
}
