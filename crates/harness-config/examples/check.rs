//! `cargo run -p harness-config --example check FILE`: shows what is wrong with a file, or what it means.

use std::io::Write as _;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "services.yaml".into());
    let options = harness_config::LoadOptions { env: std::env::vars().collect(), ..Default::default() };
    let begin = std::time::Instant::now();
    let loaded = harness_config::load(Path::new(&path), &options);
    let took = begin.elapsed();
    let mut err = std::io::stderr();
    write!(err, "{}", harness_config::render(&loaded.diagnostics, &loaded.sources, false))?;
    if let Some(stack) = &loaded.stack {
        write!(std::io::stdout(), "{}", harness_config::render_stack(stack, false))?;
    }
    writeln!(err, "{took:?}")
}
