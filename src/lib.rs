//! appsync-bridge relays what backends say on Kafka, NATS, MQTT and SQS into AWS AppSync Events, so that it reaches
//! browsers and phones, and acknowledges only what is settled.
//!
//! # The flow
//!
//! ```text
//!  broker          source            pipeline                 publisher (one an API)         Event API
//! ┌──────┐ take  ┌──────────┐ submit ┌─────────────────┐ entry ┌───────────────────────┐ POST ┌───────┐
//! │ MQTT ├──────▶│ InFlight ├───────▶│ routes: channel │──────▶│ lanes → batch → sign  ├─────▶│ /event│
//! │      │◀──────┤          │        │ and event       │       │ verdict ◀─────────────┼──────┤       │
//! └──────┘  ack  └────▲─────┘        └───────┬─────────┘       └──┬─────────┬──────────┘      └───────┘
//!                     │                      │ reject             │ refused │ accepted
//!                     │                      ▼                    ▼         │
//!                     │                ┌─────────────────────────────┐      │
//!                     │                │ dead letter: fsync, confirm │      │
//!                     │                └──────────────┬──────────────┘      │
//!                     └────── settle ─────────────────┴─────────────────────┘
//! ```
//!
//! A message travels with its duty ([`delivery`]): whoever drops it says *not done*, and only an
//! explicit call says *done*. The broker is the buffer; nothing is acknowledged before the answer.
//! A source is slowed by its in-flight limit, and held by the intake gate while no API takes anything.
//! It routes what it takes on its own thread, which never waits. Transient faults are the publisher's
//! business; redelivery by the broker is the end of everything that went wrong here. Stopping is
//! closing the first queue: only sources hear the drain, every later part ends because its queue did.
//!
//! # The modules, in reading order
//!
//! 1. [`message`], [`delivery`]: what arrives, and the duty that travels with it.
//! 2. [`event_api`]: channel, event, wire, signature; the facts of the service.
//! 3. [`route`]: which messages go where, and as what.
//! 4. [`source`]: the connectors, their room and their records of what is in flight.
//! 5. [`publish`]: lanes, limits, the verdict on an answer, one request.
//! 6. [`dead_letter`], [`pipeline`]: what can't be published; the middle that joins 3 to 5.
//! 7. [`config`]: what the operator wrote, checked.
//!    [`subscribe`]: the other direction, for people who look.
//! 8. [`reload`]: what is different in another configuration. [`bridge`]: assembly and lifetime. [`replay`]: dead letters through their routes again.
//!    [`admin`], [`cli`]: what people touch.
//! 9. `emulator`, `demo`: a local Event API; everything with one command, and a page on which to break it.
//! 10. [`seeded_bugs`]: bugs that tests switch on, to prove that they would be caught.
//! 11. `kafka`, `nats`: what all clients of a cluster or a server share, the source and the dead letter.
//! 12. [`trace`]: the spans of messages, events and requests; `otlp`: takes them, and the numbers, to a collector.
//! 13. [`aws`], [`backoff`], [`error_chain`], [`files`], [`health`], [`listener`], [`metrics`],
//!     [`oauth2`], [`outbound`], [`probe`], [`redact`], [`renewal`], [`repeats`], [`shutdown`], [`telemetry`]: tools that know
//!     nothing of the rest.
//!
//! # Who may import whom
//!
//! A test reads this table and the sources, and fails on an edge that is not in it.
//!
//! ```text
//! main → cli
//! cli → backoff, bridge, config, demo, emulator, error_chain, event_api, files, health, metrics, outbound, probe, publish, redact, replay, shutdown, source, subscribe, telemetry
//! demo → emulator, files, listener, repeats, shutdown
//! bridge → admin, config, dead_letter, delivery, files, health, kafka, message, metrics, otlp, outbound, pipeline, probe, publish, reload, route, shutdown, source, trace
//! reload → config, message, route
//! replay → config, dead_letter, delivery, health, message, metrics, pipeline, publish, route, shutdown, source
//! pipeline → dead_letter, delivery, message, metrics, publish, repeats, route, trace
//! source → aws, backoff, config, delivery, error_chain, health, kafka, message, metrics, nats, outbound, probe, renewal, repeats, seeded_bugs, shutdown, telemetry
//! subscribe → backoff, config, error_chain, event_api, publish, redact
//! publish → aws, backoff, config, delivery, error_chain, event_api, files, health, metrics, oauth2, outbound, probe, redact, renewal, repeats, route, seeded_bugs, shutdown, trace
//! dead_letter → aws, backoff, config, delivery, error_chain, health, kafka, message, metrics, nats, probe, repeats, seeded_bugs, shutdown
//! kafka → aws, config, oauth2, outbound, probe, redact, renewal
//! nats → backoff, config, error_chain, outbound, probe
//! otlp → backoff, config, error_chain, metrics, outbound, redact, repeats, trace
//! emulator → error_chain, event_api, files, listener, repeats, shutdown
//! admin → config, files, health, listener, metrics, redact, shutdown, telemetry
//! config → files, message, redact, route
//! route → event_api, message
//! delivery → message, metrics, seeded_bugs, trace
//! trace → error_chain, message
//! aws → config, error_chain, outbound, probe, redact, renewal
//! oauth2 → config, error_chain, outbound, redact, renewal
//! outbound → config, files
//! listener → repeats
//! renewal → backoff
//! telemetry → error_chain, redact
//! ```

pub mod admin;
pub mod aws;
pub mod backoff;
pub mod bridge;
pub mod cli;
pub mod config;
pub mod dead_letter;
pub mod delivery;
#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "emulator")]
pub mod emulator;
pub mod error_chain;
pub mod event_api;
pub mod files;
pub mod health;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod listener;
pub mod message;
pub mod metrics;
#[cfg(feature = "nats")]
pub mod nats;
pub mod oauth2;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod outbound;
pub mod pipeline;
pub mod probe;
pub mod publish;
pub mod redact;
pub mod reload;
pub mod renewal;
pub mod repeats;
pub mod replay;
pub mod route;
pub mod seeded_bugs;
pub mod shutdown;
pub mod source;
pub mod subscribe;
pub mod telemetry;
pub mod trace;
