//! `harness config`.

use super::{Context, examples, load, plan, validate};
use crate::api::{self, ExecContext, ExecParams};
use crate::connect;
use crate::error::CommandError;
use crate::exit::Exit;
use crate::ui::style;
use orchestrator::model::{Condition, ServiceName, Stack};
use std::collections::HashSet;

mod resolve;
mod shown;

/// Show what the configuration means
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness config show                 Everything, with templates and defaults applied"
    "harness config env web              What web gets"
    "harness config resolve '${db.url}'  What a reference means now"
    "harness config deps --format dot    The graph"
])]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Print the configuration with templates, variables and defaults applied
    Show {
        /// Services; without any, all
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// Also the values of the environment, which may be secrets
        #[arg(long)]
        show_values: bool,
    },
    /// Print the environment of a service: of the running instance, else what the file declares
    Env {
        /// Service or instance
        #[arg(value_name = "NAME")]
        name: String,
        /// Also the values, which may be secrets
        #[arg(long)]
        show_values: bool,
    },
    /// Print what a text with ${…} means, or where a service can be reached
    Resolve {
        /// A text such as '${db.url}', or a service
        #[arg(value_name = "TEXT")]
        text: String,
    },
    /// Print who needs whom
    Deps {
        /// Services; without any, all
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// How
        #[arg(long, value_name = "FORMAT", default_value = "tree")]
        format: Form,
    },
    /// The same as `harness validate`
    Check(validate::Args),
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Form {
    /// For people
    Tree,
    /// For Graphviz
    Dot,
    /// For Markdown
    Mermaid,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, CommandError> {
    match args.command {
        Command::Show { names, show_values } => show(context, &names, show_values),
        Command::Env { name, show_values } => env(context, &name, show_values),
        Command::Resolve { text } => resolve::run(context, &text),
        Command::Deps { names, format } => deps(context, &names, format),
        Command::Check(args) => validate::run(context, &args),
    }
}

/// The document of `config show -o json`.
#[derive(serde::Serialize)]
struct Shown {
    schema: u32,
    #[serde(flatten)]
    stack: harness_config::Resolved,
}

fn show(context: &Context, names: &[String], show_values: bool) -> Result<Exit, CommandError> {
    let project = context.project()?;
    let mut stack = load::look(context, &project)?.stack;
    load::check_names(&stack, names)?;
    if !names.is_empty() {
        let wanted: HashSet<ServiceName> =
            names.iter().filter_map(|name| plan::service_of(&stack, name)).collect();
        stack.services.retain(|name, _| wanted.contains(name));
    }
    if context.ui.is_table() {
        context.ui.out(harness_config::render_stack(&stack, show_values).trim_end())?;
    } else {
        context.ui.document(&Shown { schema: 1, stack: harness_config::resolved(&stack, show_values) })?;
    }
    Ok(Exit::OK)
}

fn env(context: &Context, name: &str, show_values: bool) -> Result<Exit, CommandError> {
    let project = context.project()?;
    let running = connect::block_on(async |executor| {
        let Some(daemon) = connect::existing(executor, &project).await? else { return Ok(None) };
        let params = ExecParams { name: name.to_owned() };
        Ok(daemon.call::<ExecContext>(api::STACK_EXEC, &params).await.ok())
    })?;
    let pairs: Vec<(String, String)> = match running {
        Some(place) => place.env,
        None => {
            let stack = load::look(context, &project)?.stack;
            load::check_names(&stack, &[name.to_owned()])?;
            context
                .ui
                .say("It isn't running: this is what the file declares, without the caller's environment.");
            let service = plan::service_of(&stack, name).and_then(|name| stack.services.get(&name));
            let env = service.into_iter().flat_map(|service| &service.env);
            env.map(|(name, value)| (name.clone(), value.display(show_values))).collect()
        }
    };
    let value = |text: &String| if show_values { text.clone() } else { shown::MASK.to_owned() };
    if context.ui.is_table() {
        for (name, text) in &pairs {
            context.ui.out(format_args!("{name}={}", value(text)))?;
        }
        if !show_values && !pairs.is_empty() {
            context.ui.say(style::paint(style::DIM, "--show-values shows the values, which may be secrets"));
        }
    } else {
        let env: serde_json::Map<String, serde_json::Value> =
            pairs.iter().map(|(name, text)| (name.clone(), value(text).into())).collect();
        context.ui.document(&serde_json::json!({ "schema": 1, "env": env }))?;
    }
    Ok(Exit::OK)
}

fn deps(context: &Context, names: &[String], form: Form) -> Result<Exit, CommandError> {
    let project = context.project()?;
    let stack = load::look(context, &project)?.stack;
    load::check_names(&stack, names)?;
    let chosen: HashSet<ServiceName> = plan::selected(&stack, names).into_iter().collect();
    if !context.ui.is_table() {
        let services: serde_json::Map<String, serde_json::Value> = stack
            .services
            .values()
            .filter(|service| chosen.contains(&service.name))
            .map(|service| (service.name.to_string(), shown::dependencies(service)))
            .collect();
        context.ui.document(&serde_json::json!({ "schema": 1, "dependencies": services }))?;
        return Ok(Exit::OK);
    }
    context.ui.out(match form {
        Form::Tree => tree(&stack, names, &chosen),
        Form::Dot => edges(&stack, &chosen, "digraph services {\n  rankdir=LR;\n", "}", dot),
        Form::Mermaid => edges(&stack, &chosen, "graph LR\n", "", mermaid),
    })?;
    Ok(Exit::OK)
}

/// A tree from the services that nobody needs (or that were named) down to what they need.
fn tree(stack: &Stack, names: &[String], chosen: &HashSet<ServiceName>) -> String {
    let needed: HashSet<&ServiceName> =
        stack.services.values().flat_map(|service| service.dependencies.keys()).collect();
    let mut roots: Vec<ServiceName> = names.iter().filter_map(|name| plan::service_of(stack, name)).collect();
    if roots.is_empty() {
        roots = stack.services.keys().filter(|name| !needed.contains(name)).cloned().collect();
    }
    let mut lines = Vec::new();
    let mut seen = HashSet::new();
    for root in &roots {
        branch(stack, root, "", "", None, &mut seen, &mut lines);
    }
    // Cycles of condition `none` have no root.
    for name in stack.services.keys().filter(|name| chosen.contains(*name)) {
        if !seen.contains(name) {
            branch(stack, name, "", "", None, &mut seen, &mut lines);
        }
    }
    lines.join("\n")
}

fn branch(
    stack: &Stack,
    name: &ServiceName,
    head: &str,
    tail: &str,
    condition: Option<Condition>,
    seen: &mut HashSet<ServiceName>,
    lines: &mut Vec<String>,
) {
    let word = condition.map(|c| style::paint(style::DIM, format_args!("  {}", shown::condition(c))));
    let fresh = seen.insert(name.clone());
    let needs: Vec<_> =
        stack.services.get(name).into_iter().flat_map(|service| &service.dependencies).collect();
    let again = if fresh || needs.is_empty() { "" } else { "  (see above)" };
    lines.push(format!("{head}{name}{}{again}", word.unwrap_or_default()));
    if !fresh {
        return;
    }
    for (index, (need, dependency)) in needs.iter().enumerate() {
        let last = index + 1 == needs.len();
        let (mark, line) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        let (head, tail) = (format!("{tail}{mark}"), format!("{tail}{line}"));
        branch(stack, need, &head, &tail, Some(dependency.condition), seen, lines);
    }
}

fn edges(
    stack: &Stack,
    chosen: &HashSet<ServiceName>,
    begin: &str,
    end: &str,
    edge: fn(&ServiceName, Option<(&ServiceName, &str)>) -> String,
) -> String {
    let mut text = begin.to_owned();
    for name in stack.services.keys().filter(|name| chosen.contains(*name)) {
        let service = stack.services.get(name);
        text.push_str(&edge(name, None));
        for (need, dependency) in service.into_iter().flat_map(|service| &service.dependencies) {
            text.push_str(&edge(name, Some((need, shown::condition(dependency.condition)))));
        }
    }
    text.push_str(end);
    text.trim_end().to_owned()
}

fn dot(name: &ServiceName, need: Option<(&ServiceName, &str)>) -> String {
    match need {
        None => format!("  \"{name}\";\n"),
        Some((need, condition)) => format!("  \"{name}\" -> \"{need}\" [label=\"{condition}\"];\n"),
    }
}

fn mermaid(name: &ServiceName, need: Option<(&ServiceName, &str)>) -> String {
    // A prefix, because Mermaid has reserved words such as `end`.
    match need {
        None => format!("  s_{name}[\"{name}\"]\n"),
        Some((need, condition)) => format!("  s_{name} -->|{condition}| s_{need}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use harness_config::{LoadOptions, NoFiles, load_str};
    use std::path::Path;

    fn stack() -> Stack {
        let text = "version: '1.0'\nservices:\n  web: {type: process, binary: ./web, dependencies: [api, cache], env: {TOKEN: hunter2}}\n  api: {type: process, binary: ./api, dependencies: [cache]}\n  cache: {type: process, binary: ./cache}\n";
        load_str(Path::new("/p/services.yaml"), text, &LoadOptions::default(), &NoFiles).stack.unwrap()
    }

    #[test]
    fn the_tree_shows_each_branch_once() {
        let stack = stack();
        let chosen = stack.services.keys().cloned().collect();
        let text = anstream::adapter::strip_str(&tree(&stack, &[], &chosen)).to_string();
        insta::assert_snapshot!(text, @r"
        web
        ├─ api  started
        │  └─ cache  started
        └─ cache  started
        ");
    }

    #[test]
    fn graphs_for_other_programs() {
        let stack = stack();
        let chosen = stack.services.keys().cloned().collect();
        insta::assert_snapshot!(edges(&stack, &chosen, "digraph services {\n", "}", dot), @r#"
        digraph services {
          "web";
          "web" -> "api" [label="started"];
          "web" -> "cache" [label="started"];
          "api";
          "api" -> "cache" [label="started"];
          "cache";
        }
        "#);
        assert!(edges(&stack, &chosen, "graph LR\n", "", mermaid).contains("s_web -->|started| s_api"));
    }
}
