//! The last quarter of an hour in one line of characters.

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Steps of a quarter of an hour.
const STEPS: usize = 180;

/// The values, oldest first, in `width` columns with now at the right: each column has the largest of its values,
/// and what was before the first is blank. Nothing is the lowest bar, whatever the largest is.
pub(super) fn curve(values: &[f64], width: usize) -> String {
    let most = values.iter().copied().fold(0.0, f64::max);
    let missing = STEPS.saturating_sub(values.len());
    let value = |step: usize| step.checked_sub(missing).and_then(|at| values.get(at)).copied();
    let column = |at: usize| {
        let steps = at * STEPS / width..((at + 1) * STEPS / width).max(at * STEPS / width + 1);
        let largest = steps
            .filter_map(value)
            .fold(None, |most: Option<f64>, v| Some(most.map_or(v, |most| most.max(v))));
        largest.map_or(' ', |value| bar(value, most))
    };
    (0..width).map(column).collect()
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // from 0 to 7
fn bar(value: f64, most: f64) -> char {
    let share = if most > 0.0 { (value / most).clamp(0.0, 1.0) } else { 0.0 };
    BARS[(share * 7.0).ceil() as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn now_is_at_the_right_and_the_largest_is_full() {
        assert_eq!(curve(&[], 4), "    ");
        assert_eq!(curve(&[0.0], 4), "   ▁");
        let rising: Vec<_> = (0..180).map(f64::from).collect();
        assert_eq!(curve(&rising, 8), "▂▃▄▅▆▇██");
        let mut spike = vec![0.0; 180];
        spike[90] = 5.0;
        assert_eq!(curve(&spike, 4), "▁▁█▁");
        assert_eq!(curve(&spike, 300).chars().count(), 300);
        assert_eq!(curve(&[f64::NAN, -1.0], 1), "▁");
    }
}
