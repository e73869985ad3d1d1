#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = appsync_bridge_fuzz::record(data);
});
