//! What `/metrics` says, as OTLP has it: the same names, labels and numbers, counted since this process began.

use std::collections::BTreeMap;
use std::time::SystemTime;

use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;

use super::attributes::{scope, text};
use super::exposition::{Family, Label, Sample, families};
use super::spans::nanoseconds;

/// Series a request: a collector takes 20 MiB.
const MOST: usize = 10_000;

/// The bodies of the requests that say what the text of `/metrics` says, now and since `began`.
pub(super) fn requests(resource: &Resource, exposition: &str, began: SystemTime) -> Vec<Vec<u8>> {
    let times = Times { began: nanoseconds(began), now: nanoseconds(SystemTime::now()) };
    let mut bodies = Vec::new();
    let (mut metrics, mut count) = (Vec::new(), 0);
    for family in families(exposition) {
        for part in parts(&family) {
            if count + part.samples.len() > MOST && !metrics.is_empty() {
                bodies.push(body(resource, std::mem::take(&mut metrics)));
                count = 0;
            }
            count += part.samples.len();
            metrics.extend(metric(&part, times));
        }
    }
    if !metrics.is_empty() {
        bodies.push(body(resource, metrics));
    }
    bodies
}

/// How many points a good answer says were not taken, and why.
pub(super) fn left_out(answer: &[u8]) -> Option<(u64, String)> {
    let partial = ExportMetricsServiceResponse::decode(answer).ok()?.partial_success?;
    let count = u64::try_from(partial.rejected_data_points).ok().filter(|count| *count > 0)?;
    Some((count, partial.error_message))
}

/// The body of a request that says nothing, to see whether it is taken.
pub(super) fn nothing(resource: &Resource) -> Vec<u8> {
    body(resource, Vec::new())
}

/// In nanoseconds since 1970.
#[derive(Clone, Copy)]
struct Times {
    began: u64,
    now: u64,
}

fn body(resource: &Resource, metrics: Vec<Metric>) -> Vec<u8> {
    let scope_metrics =
        vec![ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() }];
    let resource = Some(resource.clone());
    let resource_metrics =
        vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }];
    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
}

/// A family that fits into a request, or pieces of it that do. A histogram's series is never cut.
fn parts<'f>(family: &'f Family<'_>) -> impl Iterator<Item = Part<'f>> {
    let same = |one: &Sample<'_>, other: &Sample<'_>| {
        family.kind == "histogram" && bare(one).eq(bare(other))
    };
    let mut rest = &family.samples[..];
    std::iter::from_fn(move || {
        let mut at = rest.len().min(MOST);
        while at > 0 && at < rest.len() && same(&rest[at - 1], &rest[at]) {
            at -= 1;
        }
        // One series alone is as long as it is.
        let at = if at == 0 { rest.len() } else { at };
        let (samples, behind) = rest.split_at(at);
        rest = behind;
        (!samples.is_empty()).then_some(Part { family, samples })
    })
}

struct Part<'f> {
    family: &'f Family<'f>,
    samples: &'f [Sample<'f>],
}

fn metric(Part { family, samples }: &Part<'_>, times: Times) -> Option<Metric> {
    let temporality = AggregationTemporality::Cumulative.into();
    let numbers = |began| {
        let points = samples.iter().filter_map(|sample| point(sample, Times { began, ..times }));
        points.collect::<Vec<_>>()
    };
    let (name, data) = match family.kind {
        "histogram" => {
            let data_points = histogram(samples, times);
            let data = Histogram { data_points, aggregation_temporality: temporality };
            (family.name, Data::Histogram(data))
        }
        "counter" => {
            let data_points = numbers(times.began);
            let data =
                Sum { data_points, aggregation_temporality: temporality, is_monotonic: true };
            (samples.first()?.name, Data::Sum(data))
        }
        _ => (samples.first()?.name, Data::Gauge(Gauge { data_points: numbers(0) })),
    };
    Some(Metric {
        name: name.to_owned(),
        description: family.help.to_string(),
        unit: family.unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    })
}

fn point(sample: &Sample<'_>, times: Times) -> Option<NumberDataPoint> {
    let value = match sample.value.parse() {
        Ok(whole) => Value::AsInt(whole),
        Err(_) => Value::AsDouble(sample.value.parse().ok()?),
    };
    Some(NumberDataPoint {
        attributes: sample.labels.iter().map(|(name, value)| text(name, value)).collect(),
        start_time_unix_nano: times.began,
        time_unix_nano: times.now,
        value: Some(value),
        ..NumberDataPoint::default()
    })
}

/// The labels of a sample but that of its bucket.
fn bare<'s>(sample: &'s Sample<'_>) -> impl Iterator<Item = &'s Label<'s>> {
    sample.labels.iter().filter(|(name, _)| *name != "le")
}

/// A text has each bucket with those below it; OTLP has each alone.
fn histogram(samples: &[Sample<'_>], times: Times) -> Vec<HistogramDataPoint> {
    let mut series: BTreeMap<Vec<&Label<'_>>, HistogramDataPoint> = BTreeMap::new();
    for sample in samples {
        let point = series.entry(bare(sample).collect()).or_insert_with_key(|labels| {
            let attributes = labels.iter().map(|(name, value)| text(name, value)).collect();
            HistogramDataPoint {
                attributes,
                start_time_unix_nano: times.began,
                time_unix_nano: times.now,
                ..HistogramDataPoint::default()
            }
        });
        if sample.name.ends_with("_sum") {
            point.sum = sample.value.parse().ok();
        } else if sample.name.ends_with("_count") {
            point.count = sample.value.parse().unwrap_or_default();
        } else if let Some((_, bound)) = sample.labels.iter().find(|(name, _)| *name == "le") {
            let up_to: u64 = sample.value.parse().unwrap_or_default();
            let below = point.bucket_counts.iter().sum();
            point.bucket_counts.push(up_to.saturating_sub(below));
            point.explicit_bounds.extend(bound.parse::<f64>().ok().filter(|b| b.is_finite()));
        }
    }
    series.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bodies: &[Vec<u8>]) -> Vec<Metric> {
        let one = |body: &Vec<u8>| {
            let request = ExportMetricsServiceRequest::decode(&body[..]).unwrap();
            request.resource_metrics[0].scope_metrics[0].metrics.clone()
        };
        bodies.iter().flat_map(one).collect()
    }

    fn metrics(text: &str) -> Vec<Metric> {
        read(&requests(&Resource::default(), text, SystemTime::UNIX_EPOCH))
    }

    #[test]
    fn each_type_is_what_it_is() {
        let all = metrics(
            "# HELP c Counted.\n# TYPE c counter\nc_total{a=\"x\"} 3\nc_total{a=\"y\"} 0\n\
             # TYPE g gauge\ng 1.5\n# TYPE b info\nb_info{version=\"1\"} 1\n\
             # TYPE h histogram\nh_sum{a=\"x\"} 0.75\nh_count{a=\"x\"} 4\nh_bucket{le=\"0.1\",a=\"x\"} 1\n\
             h_bucket{le=\"1.0\",a=\"x\"} 4\nh_bucket{le=\"+Inf\",a=\"x\"} 4\n\
             h_sum{a=\"y\"} 0.0\nh_count{a=\"y\"} 0\nh_bucket{le=\"0.1\",a=\"y\"} 0\nh_bucket{le=\"+Inf\",a=\"y\"} 0\n# EOF\n",
        );
        let names: Vec<_> = all.iter().map(|metric| &*metric.name).collect();
        assert_eq!(names, ["c_total", "g", "b_info", "h"]);
        let Some(Data::Sum(sum)) = &all[0].data else { panic!("{all:?}") };
        assert!(sum.is_monotonic && sum.aggregation_temporality == 2, "cumulative");
        assert_eq!(sum.data_points[0].value, Some(Value::AsInt(3)));
        assert_eq!(sum.data_points[1].attributes, [text("a", "y")]);
        assert!(sum.data_points[0].time_unix_nano > sum.data_points[0].start_time_unix_nano);
        let Some(Data::Gauge(gauge)) = &all[1].data else { panic!("{all:?}") };
        assert_eq!(gauge.data_points[0].value, Some(Value::AsDouble(1.5)));
        let Some(Data::Histogram(histogram)) = &all[3].data else { panic!("{all:?}") };
        let [x, y] = &histogram.data_points[..] else { panic!("{histogram:?}") };
        assert_eq!((x.count, x.sum, &x.bucket_counts[..]), (4, Some(0.75), &[1, 3, 0][..]));
        assert_eq!(
            (&x.explicit_bounds[..], &x.attributes[..]),
            (&[0.1, 1.0][..], &[text("a", "x")][..])
        );
        assert_eq!((y.count, &y.bucket_counts[..]), (0, &[0, 0][..]));
    }

    #[test]
    fn what_is_too_much_for_a_request_is_parted_and_nothing_is_lost() {
        use std::fmt::Write as _;
        let mut exposition = "# TYPE c counter\n".to_owned();
        for n in 0..MOST * 5 / 2 {
            writeln!(exposition, "c_total{{n=\"{n}\"}} {n}").unwrap();
        }
        exposition.push_str("# TYPE h histogram\n");
        for n in 0..MOST / 3 {
            writeln!(exposition, "h_sum{{n=\"{n}\"}} 1\nh_count{{n=\"{n}\"}} 1").unwrap();
            writeln!(exposition, "h_bucket{{le=\"1.0\",n=\"{n}\"}} 1").unwrap();
            writeln!(exposition, "h_bucket{{le=\"+Inf\",n=\"{n}\"}} 1").unwrap();
        }
        let bodies = requests(&Resource::default(), &exposition, SystemTime::UNIX_EPOCH);
        assert!(bodies.len() >= 4 && bodies.iter().all(|body| body.len() < 4 << 20));
        let (mut sums, mut counted) = (0, 0);
        for metric in read(&bodies) {
            match metric.data.unwrap() {
                Data::Sum(sum) => sums += sum.data_points.len(),
                Data::Histogram(histogram) => {
                    let whole = |p: &HistogramDataPoint| {
                        p.count == 1 && p.sum == Some(1.0) && p.bucket_counts == [1, 0]
                    };
                    assert!(histogram.data_points.iter().all(whole));
                    counted += histogram.data_points.len();
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((sums, counted), (MOST * 5 / 2, MOST / 3));
    }

    #[test]
    fn nothing_to_say_is_no_request() {
        assert!(metrics("# EOF\n").is_empty());
    }
}
