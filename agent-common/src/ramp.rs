//! How much of each priority is kept under how much pressure: one ramp for the socket filter and for
//! user space.

use crate::frame::PRIORITY_MAX;
use crate::keep::{KEEP_ALL, Keep};

/// Pressure that nothing can be added to; 0 is none.
pub const PRESSURE_MAX: u32 = 1024;

/// Where the shedding of each priority begins, and where nothing of it is kept; critical is never
/// shed.
///
/// ```text
/// 0      256     384     512             768            1024
/// ├───────┼───────┼───────┼───────────────┼───────────────┤
///         background        (nothing more)      high
///                  normal
/// ```
///
/// Background begins at a quarter, as a full receive buffer of 16 MiB is 6 ms of what one host can
/// send itself: what is left then is the time to react in. What is high has the upper quarter to
/// itself, beyond a gap in which the first two being gone must have had its effect.
const RAMPS: [Option<(u32, u32)>; 4] =
    [None, Some((768, 1024)), Some((384, 512)), Some((256, 384))];

/// What of a priority is kept. A priority that there is not keeps nothing: its frames are malformed.
#[inline(always)]
pub const fn ramp(priority: u8, pressure: u32) -> u8 {
    if priority > PRIORITY_MAX {
        return 0;
    }
    let Some((begin, end)) = RAMPS[priority as usize] else {
        return KEEP_ALL;
    };
    if pressure <= begin {
        KEEP_ALL
    } else if pressure >= end {
        0
    } else {
        // The widths are 128 and 256: a shift, which an eBPF program can do too.
        ((end - pressure) * KEEP_ALL as u32 / (end - begin)) as u8
    }
}

/// All ratios under a pressure.
pub const fn ramps(pressure: u32) -> Keep {
    Keep::new([
        ramp(0, pressure),
        ramp(1, pressure),
        ramp(2, pressure),
        ramp(3, pressure),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ramps_begin_and_end_where_they_should() {
        let table = [
            (0, [16, 16, 16, 16]),
            (256, [16, 16, 16, 16]),
            (265, [16, 16, 16, 14]),
            (320, [16, 16, 16, 8]),
            (383, [16, 16, 16, 0]),
            (384, [16, 16, 16, 0]),
            (448, [16, 16, 8, 0]),
            (512, [16, 16, 0, 0]),
            (768, [16, 16, 0, 0]),
            (896, [16, 8, 0, 0]),
            (1024, [16, 0, 0, 0]),
        ];
        for (pressure, keep) in table {
            assert_eq!(ramps(pressure).sixteenths(), keep, "{pressure}");
        }
    }

    #[test]
    fn more_pressure_keeps_no_more_and_a_higher_priority_no_less() {
        for pressure in 0..=PRESSURE_MAX {
            let keep = ramps(pressure).sixteenths();
            assert!(keep.is_sorted_by(|a, b| a >= b), "{keep:?} at {pressure}");
            let more = ramps(pressure + 1).sixteenths();
            assert!(more.iter().zip(keep).all(|(more, keep)| *more <= keep));
        }
        assert_eq!(ramp(4, 0), 0);
    }
}
