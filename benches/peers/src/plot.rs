//! Bar charts of all rows: one file per kind of workload, a group of bars per row, a colour per
//! store.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::report::{Table, number};
use crate::rows::{ROWS, Row, Unit};
use crate::stores::OWN;

const COLOURS: [RGBColor; 8] = [
    RGBColor(0xd9, 0x48, 0x01),
    RGBColor(0xfd, 0xae, 0x6b),
    RGBColor(0x08, 0x51, 0x9c),
    RGBColor(0x6b, 0xae, 0xd6),
    RGBColor(0x00, 0x6d, 0x2c),
    RGBColor(0x74, 0xc4, 0x76),
    RGBColor(0x54, 0x27, 0x8f),
    RGBColor(0x9e, 0x9a, 0xc8),
];

/// Width of the names of rows, in pixels.
const NAMES_WIDTH: i32 = 340;
/// Width of the longest bar, in pixels.
const BAR_WIDTH: i32 = 420;
/// Width of the number behind a bar, in pixels.
const LABEL_WIDTH: i32 = 100;
/// Height of a bar, in pixels.
const BAR_HEIGHT: i32 = 12;
/// Space between the groups of two rows, in pixels.
const GAP: i32 = 14;
/// Height of the legend, in pixels.
const LEGEND_HEIGHT: i32 = 48;
/// Lines that separate.
const PALE: RGBColor = RGBColor(0xd0, 0xd0, 0xd0);

/// Writes `<name>.svg` for every plot that has numbers; the names of those.
pub(crate) fn write(table: &Table, out: &Path) -> Result<Vec<String>> {
    let mut names: Vec<&str> = ROWS.iter().map(|row| row.plot).collect();
    names.dedup();
    let mut written = Vec::new();
    for name in names {
        let has_numbers = |row: &&Row| table.stores.iter().any(|entry| table.median(row.id, entry.id).is_some());
        let rows: Vec<&Row> = ROWS.iter().filter(|row| row.plot == name).filter(has_numbers).collect();
        if rows.is_empty() {
            continue;
        }
        draw(table, &rows, &out.join(format!("{name}.svg"))).map_err(|error| anyhow!("drawing {name}: {error}"))?;
        written.push(name.to_owned());
    }
    Ok(written)
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(table: &Table, rows: &[&Row], path: &Path) -> Drawn {
    let group_height = table.stores.len() as i32 * BAR_HEIGHT + GAP;
    let size =
        ((NAMES_WIDTH + BAR_WIDTH + LABEL_WIDTH) as u32, (LEGEND_HEIGHT + rows.len() as i32 * group_height) as u32);
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE)?;
    draw_legend(table, rows, &area)?;
    for (place, row) in rows.iter().enumerate() {
        let top = LEGEND_HEIGHT + place as i32 * group_height;
        area.draw(&PathElement::new([(0, top - GAP / 2), (size.0 as i32, top - GAP / 2)], PALE))?;
        area.draw(&Text::new(row.title, (10, top + (group_height - GAP) / 2 - 7), ("sans-serif", 12).into_font()))?;
        draw_bars(table, row, top, &area)?;
    }
    area.present()?;
    Ok(())
}

fn draw_legend(table: &Table, rows: &[&Row], area: &Area<'_>) -> Drawn {
    let column = (NAMES_WIDTH + BAR_WIDTH + LABEL_WIDTH - 20) / table.stores.len() as i32;
    for (place, entry) in table.stores.iter().enumerate() {
        let x = 10 + place as i32 * column;
        area.draw(&Rectangle::new([(x, 7), (x + 10, 17)], colour_of(place).filled()))?;
        let name = if entry.survives_kill { entry.id.to_owned() } else { format!("{} †", entry.id) };
        area.draw(&Text::new(name, (x + 14, 6), ("sans-serif", 11).into_font()))?;
    }
    let better = if rows.iter().all(|row| row.unit.more_is_better()) { "more is better" } else { "less is better" };
    let note = format!("{better}; † loses returned writes when killed; ‡ stopped when the row's time was over");
    area.draw(&Text::new(note, (10, 24), ("sans-serif", 10).into_font().color(&RGBColor(0x60, 0x60, 0x60))))?;
    Ok(())
}

fn draw_bars(table: &Table, row: &Row, top: i32, area: &Area<'_>) -> Drawn {
    let most = table.stores.iter().filter_map(|entry| table.median(row.id, entry.id)).fold(0.0, f64::max);
    for (place, entry) in table.stores.iter().enumerate() {
        let Some(value) = table.median(row.id, entry.id) else { continue };
        let y = top + place as i32 * BAR_HEIGHT;
        let end = NAMES_WIDTH + ((value / most * f64::from(BAR_WIDTH)) as i32).max(1);
        area.draw(&Rectangle::new([(NAMES_WIDTH, y), (end, y + BAR_HEIGHT - 2)], colour_of(place).filled()))?;
        let style = if entry.id == OWN { FontStyle::Bold } else { FontStyle::Normal };
        let label = format!("{}{}", label(row.unit, value), table.stopped_mark(row.id, entry.id));
        area.draw(&Text::new(label, (end + 4, y - 1), ("sans-serif", 10, style).into_font()))?;
    }
    Ok(())
}

fn colour_of(place: usize) -> RGBColor {
    COLOURS[place % COLOURS.len()]
}

/// A number with its unit.
fn label(unit: Unit, value: f64) -> String {
    match unit {
        Unit::PerSecond => format!("{}/s", short(value)),
        Unit::BytesPerByte => format!("{} ×", number(value)),
        unit => format!("{} {}", number(value), unit.name()),
    }
}

/// A rate in thousands or millions.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 1e4 => format!("{:.0} k", v / 1e3),
        v if v >= 1e3 => format!("{:.1} k", v / 1e3),
        v => format!("{v:.0}"),
    }
}
