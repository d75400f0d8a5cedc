//! What others have registered, out of one project and into another.

use crate::support::{PATIENCE, Project};
use serde_json::Value;
use service_registry::client::{Client, ClientOptions};
use service_registry::model::Entry;
use service_registry::wire;

const STACK: &str = "services:\n  one: { type: process, command: [sleep, \"1000\"] }\n";

#[test]
fn an_export_of_one_project_is_imported_by_another() {
    let (here, there) = (Project::new(STACK), Project::new(STACK));
    here.ok(&["start"]);
    let entry: Entry =
        serde_json::from_str(include_str!("../../../service-registry/samples/entry-v1.json")).unwrap();
    let instance = entry.instance.clone();
    smol::block_on(async {
        let socket = here.state_dir().join("run/harness.sock");
        let (client, driver) = Client::connect_unix(&socket, &ClientOptions::default()).await.unwrap();
        let _driver = smol::spawn(driver);
        let params = wire::RegisterParams { entry, lease: None };
        client.call::<_, wire::RegisterResult>(wire::REGISTRY_REGISTER, &params, PATIENCE).await.unwrap();
    });
    let export = here.ok(&["registry", "export"]).stdout;
    let document: Value = serde_json::from_str(&export).unwrap();
    assert_eq!(
        (document["schema"].as_u64(), document["entries"].as_array().map(Vec::len)),
        (Some(1), Some(1))
    );
    let file = there.write("registry.json", &export);
    let file = file.to_str().unwrap();
    let done = there.ok(&["registry", "import", file]);
    assert!(done.stderr.contains("1 entry registered"), "{}", done.stderr);
    let again = there.run(&["registry", "import", file]);
    assert!(
        again.code != 0 && again.stderr.contains(&format!("{instance} are registered already")),
        "{}",
        again.stderr
    );
    assert_eq!(there.json(&["registry", "import", file, "--replace"])["replaced"], 1);
    assert_eq!(
        serde_json::from_str::<Value>(&there.ok(&["registry", "export"]).stdout).unwrap()["entries"][0]["instance"],
        instance.as_str()
    );
    for (name, content) in
        [("half.json", &export[..export.len() / 2]), ("list.json", "[]"), ("empty.json", "{}")]
    {
        let bad = there.write(name, content);
        let done = there.run(&["registry", "import", bad.to_str().unwrap()]);
        assert!(done.code != 0 && done.stderr.contains("error"), "{name}: {}", done.stderr);
    }
    assert_eq!(there.run(&["registry", "import", "no-such.json"]).code, 2);
    there.ok(&["stop", "-y"]);
}
