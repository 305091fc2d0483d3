use std::fs;

use super::*;
use crate::config;
use crate::decode::avro::plan::Target;

struct Rig {
    folder: tempfile::TempDir,
    data: tempfile::TempDir,
    settings: Settings,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self {
            settings: Settings {
                schemas_dir: Some(folder.path().to_owned()),
                ..config::builtin()
            },
            data: tempfile::tempdir().expect("a folder"),
            folder,
        }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).expect("write");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.folder.path().join(name)).expect("remove");
    }

    fn open(&self) -> Registry {
        Registry::open(&self.settings, self.data.path())
    }

    fn configure(&mut self, name: &str, fields: &[(&str, Target)], registry_id: Option<u32>) {
        let fields = fields.iter();
        self.settings.schemas.push(SchemaSettings {
            name: name.to_owned(),
            mapping: crate::decode::avro::plan::Mapping {
                fields: fields.map(|(p, t)| ((*p).to_owned(), *t)).collect(),
                count_unmapped: false,
            },
            registry_id,
        });
    }
}

fn record(name: &str, fields: &[&str]) -> String {
    let fields: Vec<String> = fields
        .iter()
        .map(|field| format!("{{\"name\": \"{field}\", \"type\": \"string\"}}"))
        .collect();
    format!(
        "{{\"type\": \"record\", \"name\": \"{name}\", \"fields\": [{}]}}",
        fields.join(", ")
    )
}

fn array_print(text: &str) -> u64 {
    let file = SchemaFile::parse(Path::new("x"), text.to_owned()).expect("a schema");
    file.fingerprints.array
}

fn is_plan(schemas: &Schemas, print: u64) -> bool {
    let (_, table) = schemas.current();
    matches!(table.by_fingerprint.get(&print), Some(Known::Plan(_)))
}

fn states(registry: &Registry) -> Vec<(String, State)> {
    let files = registry.view().files();
    files.iter().map(|f| (f.name.clone(), f.state)).collect()
}

#[test]
fn an_added_schema_is_in_force_after_two_looks_and_a_removed_one_is_still_delivered() {
    let rig = Rig::new();
    let mut registry = rig.open();
    let text = record("Order", &["body", "extra"]);
    let print = array_print(&text);
    assert!(!is_plan(registry.accepted(), print));
    rig.write("orders.avsc", &text);
    registry.look();
    assert!(
        !is_plan(registry.accepted(), print),
        "it may still be being written"
    );
    registry.look();
    assert!(is_plan(registry.accepted(), print));
    assert!(is_plan(registry.delivered(), print));
    let generation = registry.accepted().generation();
    registry.look();
    assert_eq!(
        registry.accepted().generation(),
        generation,
        "nothing changed"
    );

    rig.remove("orders.avsc");
    registry.look();
    registry.look();
    assert!(!is_plan(registry.accepted(), print));
    assert!(is_plan(registry.delivered(), print));
    // And in a later life, and for `penstock cat`.
    let later = rig.open();
    assert!(!is_plan(later.accepted(), print));
    assert!(is_plan(later.delivered(), print));
    let segment = rig.data.path().join("journal/shard-00");
    fs::create_dir_all(&segment).expect("folders");
    for path in [rig.data.path(), &segment] {
        let mut schemas = JournalSchemas::around(path);
        assert_eq!(schemas.refresh(), []);
        assert!(is_plan(schemas.schemas(), print));
    }
}

#[test]
fn a_broken_file_leaves_the_others_working_and_comes_back_when_it_is_mended() {
    let rig = Rig::new();
    let text = record("Good", &["body"]);
    rig.write("good.avsc", &text);
    rig.write("bad.avsc", "{\n  \"type\": \"recrd\"}");
    rig.write("not a name.avsc", "{}");
    let mut registry = rig.open();
    assert!(is_plan(registry.accepted(), array_print(&text)));
    let reason = |registry: &Registry, name: &str| {
        let files = registry.view().files();
        let file = files.iter().find(|file| file.name == name).expect(name);
        file.reason.clone().unwrap_or_default()
    };
    assert!(reason(&registry, "bad").contains("bad.avsc:2:11: no type is called \"recrd\""));
    assert_eq!(registry.view().count(State::Broken), 2);
    assert_eq!(registry.view().count(State::Usable), 1);
    rig.write("bad.avsc", &record("Mended", &["body"]));
    registry.look();
    registry.look();
    assert_eq!(registry.view().count(State::Broken), 1);
    assert_eq!(registry.view().count(State::Usable), 2);
}

#[test]
fn the_same_schema_twice_is_used_once() {
    let rig = Rig::new();
    rig.write("a.avsc", &record("R", &["body"]));
    // Canonically the same: an array of it, with a doc.
    let array = format!(
        "{{\"type\": \"array\", \"doc\": \"d\", \"items\": {}}}",
        record("R", &["body"])
    );
    rig.write("b.avsc", &array);
    let registry = rig.open();
    assert_eq!(
        states(&registry),
        [
            ("a".to_owned(), State::Usable),
            ("b".to_owned(), State::Broken)
        ]
    );
}

#[test]
fn a_schema_that_cannot_be_mapped_is_known_and_unusable() {
    let mut rig = Rig::new();
    // A record in itself without an end: it parses, and no value of it exists.
    let endless =
        "{\"type\": \"record\", \"name\": \"E\", \"fields\": [{\"name\": \"e\", \"type\": \"E\"}]}";
    rig.write("endless.avsc", endless);
    let mapped = record("M", &["body"]);
    rig.write("mapped.avsc", &mapped);
    rig.configure("mapped", &[("no.such", Target::Body)], Some(4));
    let registry = rig.open();
    assert_eq!(registry.view().count(State::Unusable), 2);
    let (_, table) = registry.accepted().current();
    for print in [array_print(endless), array_print(&mapped)] {
        assert!(matches!(
            table.by_fingerprint.get(&print),
            Some(Known::Unusable)
        ));
    }
    assert!(matches!(
        table.by_registry_id.get(&4),
        Some(Known::Unusable)
    ));
}

#[test]
fn a_registry_id_stays_with_its_schema() {
    let mut rig = Rig::new();
    rig.configure("a", &[], Some(17));
    rig.write("a.avsc", &record("A", &["body"]));
    let mut registry = rig.open();
    assert!(matches!(
        registry.accepted().current().1.by_registry_id.get(&17),
        Some(Known::Plan(_))
    ));
    rig.write("a.avsc", &record("B", &["body"]));
    registry.look();
    registry.look();
    assert_eq!(states(&registry), [("a".to_owned(), State::Broken)]);
    let reason = registry.view().files()[0]
        .reason
        .clone()
        .unwrap_or_default();
    assert!(
        reason.contains("registry_id 17 was another schema"),
        "{reason}"
    );
    let has_id = |schemas: &Schemas| schemas.current().1.by_registry_id.contains_key(&17);
    assert!(!has_id(registry.accepted()) && has_id(registry.delivered()));
}

#[test]
fn a_folder_that_is_away_takes_nothing_from_anyone() {
    let rig = Rig::new();
    let text = record("R", &["body"]);
    rig.write("r.avsc", &text);
    let mut registry = rig.open();
    let away = rig.folder.path().with_extension("away");
    fs::rename(rig.folder.path(), &away).expect("rename");
    registry.look();
    registry.look();
    assert!(is_plan(registry.accepted(), array_print(&text)));
    fs::rename(&away, rig.folder.path()).expect("rename");
    registry.look();
    assert!(is_plan(registry.accepted(), array_print(&text)));
}

#[test]
fn a_schema_that_cannot_be_kept_is_not_accepted_until_it_can() {
    let rig = Rig::new();
    let text = record("R", &["body"]);
    rig.write("r.avsc", &text);
    // A file where the folder of the copies would stand.
    fs::write(rig.data.path().join("schemas"), "").expect("write");
    let mut registry = rig.open();
    assert!(!is_plan(registry.accepted(), array_print(&text)));
    assert_eq!(registry.view().count(State::Broken), 1);
    fs::remove_file(rig.data.path().join("schemas")).expect("remove");
    registry.look();
    assert!(is_plan(registry.accepted(), array_print(&text)));
    assert_eq!(registry.view().count(State::Usable), 1);
}
