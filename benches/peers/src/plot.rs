//! Bar charts of the rates: one file per kind of workload, a group of bars per row, a colour per store.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::report::Table;
use crate::rows::{ROWS, Row};

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
const NAMES_WIDTH: i32 = 330;
/// Width of the longest bar, in pixels.
const BAR_WIDTH: i32 = 420;
/// Height of a bar, in pixels.
const BAR_HEIGHT: i32 = 11;
/// Height of the legend, in pixels.
const LEGEND_HEIGHT: i32 = 40;

/// Writes `<name>.svg` for every plot that has numbers; the names of those.
pub(crate) fn write(table: &Table, out: &Path) -> Result<Vec<String>> {
    let mut names: Vec<&str> = ROWS.iter().filter_map(|row| row.plot).collect();
    names.dedup();
    let mut written = Vec::new();
    for name in names {
        let has_numbers = |row: &&Row| table.stores.iter().any(|entry| table.median(row.id, entry.id).is_some());
        let rows: Vec<&Row> = ROWS.iter().filter(|row| row.plot == Some(name)).filter(has_numbers).collect();
        if rows.is_empty() {
            continue;
        }
        draw(table, &rows, &out.join(format!("{name}.svg"))).map_err(|error| anyhow!("drawing {name}: {error}"))?;
        written.push(name.to_owned());
    }
    Ok(written)
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn draw(table: &Table, rows: &[&Row], path: &Path) -> Drawn {
    let group_height = (table.stores.len() as i32 + 1) * BAR_HEIGHT;
    let size = ((NAMES_WIDTH + BAR_WIDTH + 110) as u32, (LEGEND_HEIGHT + rows.len() as i32 * group_height + 10) as u32);
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE)?;
    let font = ("sans-serif", 12).into_font();
    let column = (size.0 as i32 - 20) / table.stores.len() as i32;
    for (place, entry) in table.stores.iter().enumerate() {
        let x = 10 + place as i32 * column;
        area.draw(&Rectangle::new([(x, 12), (x + 10, 22)], COLOURS[place % COLOURS.len()].filled()))?;
        area.draw(&Text::new(entry.id, (x + 14, 11), ("sans-serif", 11).into_font()))?;
    }
    for (place, row) in rows.iter().enumerate() {
        let top = LEGEND_HEIGHT + place as i32 * group_height;
        area.draw(&Text::new(row.title, (10, top + group_height / 2 - BAR_HEIGHT), font.clone()))?;
        draw_bars(table, row, top, &area)?;
    }
    area.present()?;
    Ok(())
}

fn draw_bars(table: &Table, row: &Row, top: i32, area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Drawn {
    let most = table.stores.iter().filter_map(|entry| table.median(row.id, entry.id)).fold(0.0, f64::max);
    for (place, entry) in table.stores.iter().enumerate() {
        let Some(value) = table.median(row.id, entry.id) else { continue };
        let y = top + place as i32 * BAR_HEIGHT;
        let end = NAMES_WIDTH + ((value / most * f64::from(BAR_WIDTH)) as i32).max(1);
        let colour = COLOURS[place % COLOURS.len()];
        area.draw(&Rectangle::new([(NAMES_WIDTH, y), (end, y + BAR_HEIGHT - 2)], colour.filled()))?;
        let label = format!("{}/s", short(value));
        area.draw(&Text::new(label, (end + 4, y - 1), ("sans-serif", 9).into_font()))?;
    }
    Ok(())
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
