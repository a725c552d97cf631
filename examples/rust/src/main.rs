//! A client of both agents in Rust, with the crates zmq and serde_json: it registers, stores a memory, and searches.
//!
//!     memory KEYS MAINPC PC2 TEXT QUERY
//!
//! KEYS is the folder of this program's key, MAINPC and PC2 are the agents' endpoints, such as tcp://127.0.0.1:7120.
//! Each reply is printed as a line of JSON. Exit status 1: an error reply, or none.
//! The wire: docs/reference/wire-protocol.md.

use serde_json::{json, Value};
use std::collections::HashMap;
use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};
use std::{env, fs, process};

const TRY_MS: i32 = 1000;
const TRIES: usize = 5;

type Outcome<T> = Result<T, Box<dyn Error>>;
type Key = HashMap<String, String>;

/// The `name = "value"` pairs of a key file; its sections have no name in common.
fn read_key(path: &str) -> Outcome<Key> {
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    Ok(pairs.map(|(name, value)| (name.trim().into(), value.trim().trim_matches('"').into())).collect())
}

/// The only NAME.key_secret of a folder; a NAME.next.key_secret belongs to a rotation.
fn own_key(folder: &str) -> Outcome<Key> {
    for entry in fs::read_dir(folder).map_err(|error| format!("{folder}: {error}"))? {
        let path = entry?.path().display().to_string();
        if path.ends_with(".key_secret") && !path.ends_with(".next.key_secret") {
            return read_key(&path);
        }
    }
    Err(format!("{folder} holds no secret key").into())
}

/// A connection that only the holder of FOLDER/STEM.key can serve.
fn connect_to(context: &zmq::Context, endpoint: &str, own: &Key, folder: &str, stem: &str) -> Outcome<zmq::Socket> {
    let agent = context.socket(zmq::DEALER)?;
    let server = read_key(&format!("{folder}/{stem}.key"))?;
    agent.set_curve_serverkey(&zmq::z85_decode(&server["public-key"])?)?;
    agent.set_curve_publickey(&zmq::z85_decode(&own["public-key"])?)?;
    agent.set_curve_secretkey(&zmq::z85_decode(&own["secret-key"])?)?;
    agent.set_heartbeat_ivl(5000)?;
    agent.set_heartbeat_timeout(10000)?;
    agent.set_heartbeat_ttl(20000)?;
    agent.set_rcvtimeo(TRY_MS)?;
    agent.set_linger(0)?;
    agent.connect(endpoint)?;
    Ok(agent)
}

/// Send a request until its reply comes, always the same bytes: the agent executes it once.
fn call(agent: &zmq::Socket, mut request: Value) -> Outcome<Value> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let id = json!(format!("{}-{now}", process::id()));
    request["request_id"] = id.clone();
    let bytes = request.to_string();
    for _ in 0..TRIES {
        agent.send(&bytes, 0)?;
        loop {
            let frame = match agent.recv_bytes(0) {
                Err(zmq::Error::EAGAIN) => break,
                received => received?,
            };
            let reply: Value = serde_json::from_slice(&frame)?;
            if reply["request_id"] != id {
                continue; // of an earlier attempt
            }
            if reply["status"] == "error" {
                return Err(format!("{}: {}", text(&reply["code"]), text(&reply["error"])).into());
            }
            return Ok(reply);
        }
    }
    let action = text(&request["action"]);
    Err(format!("{action}: no reply; is the address right, is the agent running, is the key authorised?").into())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn run(words: &[String]) -> Outcome<()> {
    let [folder, mainpc, pc2, content, query] = words else {
        eprintln!("usage: memory KEYS MAINPC PC2 TEXT QUERY");
        process::exit(2);
    };
    let (context, own) = (zmq::Context::new(), own_key(folder)?);
    let mainpc = connect_to(&context, mainpc, &own, folder, "server")?;
    let pc2 = connect_to(&context, pc2, &own, folder, "client")?;
    let registration = json!({"action": "register_agent", "agent_name": own["name"], "status": "HEALTHY"});
    println!("{}", call(&mainpc, registration)?);
    println!("{}", call(&pc2, json!({"action": "store_memory", "content": content}))?);
    println!("{}", call(&pc2, json!({"action": "search_memory", "query": query}))?);
    Ok(())
}

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    if let Err(error) = run(&words) {
        eprintln!("memory: {error}");
        process::exit(1);
    }
}
