//! The tasks of `ossc-agent plan` on a state directory of their own, by the words of the command line.

use clap::Parser;

use super::*;
use crate::base::{ByteRange, FileId};
use crate::order::{Model, Run, Step};

const MIB: u64 = 1 << 20;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    plan: Plan,
}

fn run(state: &Path, line: &str) -> Result<(), Error> {
    let line = Line::try_parse_from(["plan"].into_iter().chain(line.split(' '))).unwrap();
    let state = state.to_str().unwrap();
    line.plan.perform(&Environment::from([("OSSC_STATE_DIR", state)]))
}

fn orders(key: &str, command: &str) -> Orders {
    let files = vec![(key.to_owned(), 8 * MIB)];
    let mut orders = Orders::new(&Model { source: "oss://b/m/".to_owned(), files, version: "v".to_owned() });
    let step = |at: u64| Step { file: FileId(0), range: ByteRange::new(at * MIB, (at + 2) * MIB), at_ms: 0 };
    orders.add(
        command,
        Run { version: "v".to_owned(), started_ms: 1_790_000_000_000, steps: vec![step(4), step(0)] },
    );
    orders
}

#[test]
fn orders_travel_and_are_forgotten() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = here.path().join("given.json");
    let given = orders("m/a", "llama-server");
    let id = given.id();
    Shelf::new(here.path()).save(&given).unwrap();
    run(here.path(), &format!("export oss://b/m/ {}", file.display())).unwrap();
    let shelf = Shelf::new(there.path());
    shelf.save(&orders("m/a", "cp")).unwrap();
    run(there.path(), &format!("import {}", file.display())).unwrap();
    let known = |shelf: &Shelf| shelf.load(&id).unwrap().map(|orders| orders.commands.into_keys().collect());
    assert_eq!(known(&shelf), Some(vec!["cp".to_owned(), "llama-server".to_owned()]));
    run(there.path(), &format!("forget {} --command cp", &id.as_str()[..6])).unwrap();
    assert_eq!(known(&shelf), Some(vec!["llama-server".to_owned()]));
    run(there.path(), "forget --all").unwrap();
    assert_eq!(known(&shelf), None);
}

#[test]
fn what_is_not_known_is_said() {
    let state = tempfile::tempdir().unwrap();
    let shelf = Shelf::new(state.path());
    shelf.save(&orders("m/a", "cp")).unwrap();
    shelf.save(&orders("m/b", "cp")).unwrap();
    let bad = state.path().join("bad.json");
    std::fs::write(&bad, "{}").unwrap();
    for (line, problem) in [
        ("show oss://b/other/".to_owned(), "no order is known of 'oss://b/other/'"),
        ("export xyz".to_owned(), "no order is known of 'xyz'"),
        ("forget oss://b/m/".to_owned(), "several"),
        (format!("forget {} --command mv", orders("m/a", "cp").id()), "no order is known of 'mv'"),
        (format!("import {}", bad.display()), "cannot take in"),
        ("import /nonexistent".to_owned(), "cannot read /nonexistent"),
    ] {
        let error = run(state.path(), &line).unwrap_err().to_string();
        assert!(error.contains(problem), "{line}: {error}");
    }
    assert_eq!(shelf.list().unwrap().len(), 2);
}

#[test]
fn a_damaged_file_is_forgotten_by_its_id() {
    let state = tempfile::tempdir().unwrap();
    let shelf = Shelf::new(state.path());
    let id = orders("m/a", "cp").id();
    shelf.save(&orders("m/a", "cp")).unwrap();
    std::fs::write(state.path().join("orders").join(format!("{id}.json")), "spoiled").unwrap();
    assert!(run(state.path(), &format!("show {id}")).is_err());
    run(state.path(), "show").unwrap();
    run(state.path(), &format!("forget {id}")).unwrap();
    assert_eq!(shelf.list().unwrap(), []);
}

#[test]
fn the_table_and_the_json_show_the_order() {
    let state = tempfile::tempdir().unwrap();
    let shelf = Shelf::new(state.path());
    assert_eq!(show::text(&shelf, None, false).unwrap(), "no order has been learned yet\n");
    let orders = orders("m/a", "llama-server");
    shelf.save(&orders).unwrap();
    let id = orders.id();
    let table = show::text(&shelf, Some(id.as_str()), false).unwrap();
    let expected = format!(
        "{}  oss://b/m/  1 files, 8.0 MiB
  COMMAND       RUNS  LAST              TOUCHED
  llama-server     1  2026-09-21 14:13  4.0 MiB (50 %)

  order of llama-server
          4194304 .. 6291456          m/a
                0 .. 2097152          m/a
",
        &id.as_str()[..12]
    );
    assert_eq!(table, expected);
    let json: serde_json::Value =
        serde_json::from_str(&show::text(&shelf, Some("oss://b/m/"), true).unwrap()).unwrap();
    assert_eq!(json["models"][0]["id"], id.as_str());
    assert_eq!(json["models"][0]["commands"][0]["order"][1]["end"], 2 * MIB);
    let all = show::text(&shelf, None, true).unwrap();
    assert!(all.contains("llama-server") && !all.contains("\"order\""), "{all}");
}
