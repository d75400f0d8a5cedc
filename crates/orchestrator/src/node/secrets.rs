//! Values of secrets, read on the machine that runs the services.

use crate::model::SecretSource;
use command_executor::command::Command;
use command_executor::executor::Executor;
use command_executor::launcher::LocalLauncher;
use indexmap::IndexMap;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A secret without a value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Its file can't be read.
    #[error("secret {name}: can't read {}", .path.display())]
    File {
        /// The secret.
        name: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its variable isn't set.
    #[error("secret {name}: the variable {variable} isn't set")]
    Variable {
        /// The secret.
        name: String,
        /// The variable.
        variable: String,
    },
    /// Its command didn't print it.
    #[error("secret {name}: its command {why}")]
    Command {
        /// The secret.
        name: String,
        /// What happened, without what it printed.
        why: String,
    },
}

/// The time a secret's command has.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// The values, by name. `env` is the environment of the caller.
pub async fn evaluate(
    sources: &IndexMap<String, SecretSource>,
    env: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, SecretError> {
    let mut values = BTreeMap::new();
    for (name, source) in sources {
        let value = match source {
            SecretSource::File(path) => std::fs::read_to_string(path)
                .map_err(|source| SecretError::File { name: name.clone(), path: path.clone(), source })?,
            SecretSource::Env(variable) => env
                .get(variable)
                .cloned()
                .ok_or_else(|| SecretError::Variable { name: name.clone(), variable: variable.clone() })?,
            SecretSource::Command(words) => command(name, words, env).await?,
        };
        values.insert(name.clone(), value.strip_suffix('\n').unwrap_or(&value).to_owned());
    }
    Ok(values)
}

async fn command(
    name: &str,
    words: &[crate::model::Template],
    env: &BTreeMap<String, String>,
) -> Result<String, SecretError> {
    let failed = |why: String| SecretError::Command { name: name.into(), why };
    let words: Option<Vec<String>> = words.iter().map(crate::model::Template::as_literal).collect();
    let words = words.ok_or_else(|| failed("refers to a service, which a secret can't".into()))?;
    let (program, args) = words.split_first().ok_or_else(|| failed("is empty".into()))?;
    let command = Command::new(program)
        .args(args.iter().cloned())
        .env_clear()
        .envs(env.iter().map(|(name, value)| (name.clone(), value.clone())))
        .timeout(COMMAND_TIMEOUT);
    let finished = Executor::new(LocalLauncher::new())
        .run(&command)
        .await
        .map_err(|error| failed(format!("failed: {}", super::chain(&error))))?;
    if !finished.exit.is_success() {
        return Err(failed(format!("ended with {:?}", finished.exit)));
    }
    Ok(finished.stdout.to_text())
}
