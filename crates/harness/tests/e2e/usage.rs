//! What every command has in common: global options, how the file is found, how mistakes are told, and who is told.

use crate::support::{Done, Project, done};
use serde_json::Value;
use std::fs;

const STACK: &str = r#"
services:
  web: { type: process, command: [sleep, "${SECONDS_TO_SLEEP:-1000}"] }
  extra: { type: process, command: [sleep, "1000"], profiles: [more] }
"#;

#[test]
fn mistyped_commands_and_flags_lead_to_the_right_ones() {
    let project = Project::new(STACK);
    for (args, said) in [
        (&["stauts"][..], "status"),
        (&["strat"], "start"),
        (&["up"], "harness start"),
        (&["down"], "harness stop"),
        (&["ps"], "harness status"),
        (&["frobnicate"], "there is: start, stop"),
        (&["start", "--aply"], "--apply"),
        (&["logs", "--folow"], "--follow"),
        (&["status", "-o", "jsn"], "json"),
        (&["config", "shwo"], "show"),
        (&["daemon", "statsu"], "status"),
        (&["start", "--timeout", "soon"], "500ms"),
        (&["-e", "NOVALUE", "start"], "NAME=VALUE"),
        (&["-q", "-v", "start"], "--quiet"),
        (&["start", "--rollback-on-failure", "--no-wait"], "--no-wait"),
        (&["exec"], "NAME"),
        (&["config"], "show"),
        (&["daemon"], "status"),
    ] {
        let done = project.run(args);
        assert_eq!(done.code, 2, "{args:?}: {}{}", done.stdout, done.stderr);
        assert!(done.stderr.contains(said), "{args:?} should lead to {said}: {}", done.stderr);
        assert!(done.stdout.is_empty(), "{args:?} {}", done.stdout);
    }
}

#[test]
fn when_json_was_asked_for_errors_are_json_too() {
    let project = Project::new(STACK);
    for (args, code, part) in [
        (&["-o", "json", "frobnicate"][..], 2, "frobnicate"),
        (&["start", "--bogus", "-o", "json"], 2, "--bogus"),
        (&["start", "wbe", "-o", "json"], 2, "wbe"),
        (&["start", "wbe", "--output=json"], 2, "wbe"),
        (&["events", "-ojson"], 4, "daemon"),
        (&["restart", "-o", "json"], 1, "restart"),
        (&["status", "-c", "nothing.yaml", "-o", "json"], 2, "nothing.yaml"),
        (&["exec", "web", "-o", "json"], 1, "running"),
    ] {
        let done = project.run(args);
        assert_eq!(done.code, code, "{args:?}: {}", done.stderr);
        assert!(done.stdout.is_empty(), "{args:?}: {}", done.stdout);
        let error: Value =
            serde_json::from_str(&done.stderr).unwrap_or_else(|e| panic!("{args:?} {e}: {}", done.stderr));
        assert_eq!((&error["schema"], &error["error"]["exit_code"]), (&1.into(), &code.into()), "{args:?}");
        assert!(error["error"]["message"].as_str().unwrap().contains(part), "{args:?}: {error:#}");
    }
    project.write_services("services:\n  web: { type: process, comand: x }\n");
    for args in [&["start", "-o", "json"][..], &["list", "-o", "json"]] {
        let done = project.run(args);
        assert_eq!(done.code, 2);
        let problems: Value =
            serde_json::from_str(&done.stderr).unwrap_or_else(|e| panic!("{e}: {}", done.stderr));
        assert_eq!(problems["schema"], 1, "{problems:#}");
        assert!(problems.to_string().contains("comand"), "{problems:#}");
    }
}

#[test]
fn the_file_is_found_in_the_documented_order() {
    let project = Project::new("");
    let root = project.path();
    fs::create_dir_all(root.join("repo/.git")).unwrap();
    fs::create_dir_all(root.join("repo/sub/deep")).unwrap();
    fs::create_dir_all(root.join("repo/.harness")).unwrap();
    fs::create_dir_all(root.join(".config/harness")).unwrap();
    let text = |name: &str| {
        format!("version: \"1.0\"\nname: {name}\nservices: {{ {name}: {{ type: process, command: ls }} }}\n")
    };
    for (path, name) in [
        ("services.yaml", "above-the-repository"),
        (".config/harness/services.yaml", "of-the-home"),
        ("repo/services.yaml", "first"),
        ("repo/harness.yaml", "second"),
        ("repo/.harness/services.yaml", "third"),
        ("other.yaml", "other"),
        ("another.yaml", "another"),
    ] {
        project.write(path, &text(name));
    }
    let deep = root.join("repo/sub/deep");
    let found = |args: &[&str], env: Option<&str>| {
        let mut command = project.command(args);
        command.args(["list", "-o", "json"]).current_dir(&deep).env_remove("XDG_CONFIG_HOME");
        command.envs(env.map(|file| ("HARNESS_CONFIG", root.join(file))));
        let done = done(command.output().unwrap());
        assert_eq!(done.code, 0, "{args:?} {}", done.stderr);
        let listed: Value = serde_json::from_str(&done.stdout).unwrap();
        listed["services"][0]["name"].as_str().unwrap().to_owned()
    };
    let other = root.join("other.yaml");
    assert_eq!(found(&["-c", other.to_str().unwrap()], Some("another.yaml")), "other", "--config wins");
    assert_eq!(found(&[], Some("another.yaml")), "another", "HARNESS_CONFIG");
    assert_eq!(found(&["-C", "../.."], None), "first", "-C");
    assert_eq!(found(&["-C", "../../..", "-c", "other.yaml"], None), "other", "-c is relative to -C");
    for (name, file) in
        [("first", "services.yaml"), ("second", "harness.yaml"), ("third", ".harness/services.yaml")]
    {
        assert_eq!(found(&[], None), name);
        fs::remove_file(root.join("repo").join(file)).unwrap();
    }
    assert_eq!(found(&[], None), "of-the-home", "not above the repository");
    fs::remove_file(root.join(".config/harness/services.yaml")).unwrap();
    let mut command = project.command(&["status"]);
    let none = done(command.current_dir(&deep).output().unwrap());
    assert_eq!(none.code, 2);
    assert!(none.stderr.contains("harness init"), "{}", none.stderr);
}

#[test]
fn relative_paths_are_relative_to_the_file_wherever_the_caller_is() {
    let project = Project::new(
        "services:\n  web: { type: process, command: [sh, -c, 'pwd; cat data; exec sleep 1000'], env_file: [web.env] }\n",
    );
    project.write("data", "found\n");
    project.write("web.env", "A=1\n");
    let file = project.path().join("services.yaml");
    let mut command = project.command(&["start", "-c", file.to_str().unwrap()]);
    let start = done(command.current_dir("/").output().unwrap());
    assert_eq!(start.code, 0, "{}", start.stderr);
    let here = project.path().canonicalize().unwrap();
    assert_eq!(project.logs("web"), [here.to_str().unwrap(), "found"], "the same project from both folders");
}

#[test]
fn quiet_says_only_errors_and_data_stays() {
    let project = Project::new(STACK);
    let start = project.ok(&["-q", "start"]);
    assert!(start.stdout.is_empty() && start.stderr.is_empty(), "{}{}", start.stdout, start.stderr);
    assert!(!project.ok(&["-q", "status"]).stdout.is_empty());
    let wrong = project.run(&["-q", "start", "nobody"]);
    assert!(wrong.code == 2 && wrong.stderr.contains("nobody"), "{}", wrong.stderr);
    let verbose = project.ok(&["-vv", "status"]);
    assert!(verbose.stdout.contains("web"), "{}", verbose.stdout);
    let mut command = project.command(&["status"]);
    let wrong = done(command.env("HARNESS_LOG_LEVEL", "not=a=level").output().unwrap());
    assert_eq!(wrong.code, 2, "{}", wrong.stderr);
    assert!(wrong.stderr.contains("debug"), "what is expected: {}", wrong.stderr);
    let stop = project.ok(&["-q", "stop"]);
    assert!(stop.stdout.is_empty() && stop.stderr.is_empty(), "{}{}", stop.stdout, stop.stderr);
}

#[test]
fn variables_and_profiles_come_from_flags_and_environment() {
    let project = Project::new(STACK);
    let shown = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = project.command(args);
        command.envs(env.iter().copied());
        let done = done(command.output().unwrap());
        assert_eq!(done.code, 0, "{}", done.stderr);
        done.stdout
    };
    let show = &["config", "show", "web", "--show-values"][..];
    assert!(shown(show, &[]).contains("1000"));
    assert!(shown(show, &[("SECONDS_TO_SLEEP", "77")]).contains("77"));
    let both = shown(&[&["-e", "SECONDS_TO_SLEEP=88"], show].concat(), &[("SECONDS_TO_SLEEP", "77")]);
    assert!(both.contains("88") && !both.contains("77"), "-e beats the caller: {both}");
    assert!(!shown(&["list"], &[]).contains("extra"));
    assert!(shown(&["list", "--profile", "more"], &[]).contains("extra"));
    assert!(shown(&["list"], &[("HARNESS_PROFILES", "other,more")]).contains("extra"));
}

#[test]
fn harness_alone_shows_the_project_or_the_help() {
    let project = Project::new(STACK);
    let alone = project.ok(&[]);
    for next in ["harness start", "harness validate", "harness --help"] {
        assert!(alone.stderr.contains(next), "{}", alone.stderr);
    }
    project.ok(&["start"]);
    let alone = project.ok(&[]);
    assert!(
        alone.stdout.contains("running") && alone.stderr.contains("harness logs"),
        "{}{}",
        alone.stdout,
        alone.stderr
    );
    project.ok(&["stop"]);
    fs::remove_file(project.path().join("services.yaml")).unwrap();
    let elsewhere = Project::new("");
    fs::remove_file(elsewhere.path().join("services.yaml")).unwrap();
    let alone = elsewhere.ok(&[]);
    assert!(alone.stdout.contains("Examples:"), "{}", alone.stdout);
}

#[test]
fn help_begins_with_examples_and_every_command_has_some() {
    let project = Project::new(STACK);
    let help = project.ok(&["--help"]).stdout;
    let at = |text: &str| help.find(text).unwrap_or_else(|| panic!("{text}: {help}"));
    assert!(
        at("Examples:") < at("Usage:") && at("Run:") < at("Inspect:") && at("Inspect:") < at("Configure:")
    );
    for command in [
        "start",
        "stop",
        "restart",
        "exec",
        "status",
        "list",
        "logs",
        "health",
        "events",
        "init",
        "validate",
        "config",
        "daemon",
        "completions",
        "man",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
        let text = project.ok(&[command, "--help"]).stdout;
        assert!(text.contains("Examples:") && text.contains("harness "), "{command}: {text}");
        assert!(!text.contains('\u{1b}'), "{command}: {text:?}");
        assert!(project.ok(&[command, "-h"]).stdout.lines().count() > 3);
    }
    assert!(project.ok(&["--version"]).stdout.starts_with("harness "));
}

/// The lines of a help text's examples.
fn examples(help: &str) -> Vec<Vec<String>> {
    let lines = help.lines().skip_while(|line| *line != "Examples:").skip(1);
    lines
        .take_while(|line| line.starts_with("  "))
        .map(|line| line.trim().split("  ").next().unwrap_or_default().to_owned())
        .map(|typed| {
            typed
                .split(" > ")
                .next()
                .and_then(|typed| typed.split(" | ").next())
                .unwrap_or_default()
                .to_owned()
        })
        .map(|typed| shell_words(&typed))
        .collect()
}

fn shell_words(typed: &str) -> Vec<String> {
    let output =
        std::process::Command::new("sh").args(["-c", &format!("printf '%s\\n' {typed}")]).output().unwrap();
    assert!(output.status.success(), "{typed}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn every_example_in_the_help_is_understood() {
    let project = Project::new(STACK);
    let mut all = examples(&project.ok(&["--help"]).stdout);
    for command in [
        "start",
        "stop",
        "restart",
        "exec",
        "status",
        "list",
        "logs",
        "health",
        "events",
        "init",
        "validate",
        "config",
        "daemon",
        "completions",
        "man",
    ] {
        let found = examples(&project.ok(&[command, "--help"]).stdout);
        assert!(!found.is_empty(), "{command}");
        all.extend(found);
    }
    for example in all {
        assert_eq!(example[0], "harness", "{example:?}");
        // Only whether the command line is understood: with a file that isn't there, nothing is done. What needs no
        // file is left out where it would act.
        if ["init", "completions", "man", "validate"].contains(&example[1].as_str()) {
            continue;
        }
        let end = example.iter().position(|word| word == "--").unwrap_or(example.len());
        let mut args: Vec<&str> = example[1..end].iter().map(String::as_str).collect();
        args.extend(["-c", "there-is-none.yaml"]);
        args.extend(example[end..].iter().map(String::as_str));
        let Done { code, stderr, .. } = project.run(&args);
        assert_eq!(code, 2, "{example:?}");
        assert!(stderr.contains("there-is-none.yaml") && !stderr.contains("Usage:"), "{example:?}: {stderr}");
    }
}

#[test]
fn an_address_that_is_none_is_explained() {
    let project = Project::new("");
    for (host, problem) in [
        ("web-1", "that isn't an address"),
        ("ssh://web:x", "the port is no number"),
        ("ssh://-oX", "no name"),
    ] {
        let done = project.run(&["-H", host, "status"]);
        assert_eq!(done.code, 2);
        assert!(done.stderr.contains(problem) && done.stderr.contains("expected ssh://"), "{}", done.stderr);
    }
}
