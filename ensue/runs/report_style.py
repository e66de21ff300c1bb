"""The style sheet of the report: one column, readable on a phone, light and dark."""

from __future__ import annotations

STYLE = """\
:root {
  --ground: #ffffff; --panel: #f4f5f7; --ink: #1c2128; --quiet: #59636e; --line: #d8dde3;
  --series-1: #1f6feb; --series-2: #bc6c00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171b; --panel: #1d2127; --ink: #e4e8ec; --quiet: #9aa5b1; --line: #343b44;
    --series-1: #6cb0ff; --series-2: #f0a848;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 60rem; margin: 0 auto; padding: 1rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 1rem 0 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1rem 0 .25rem; }
h4 { font-size: .85rem; font-weight: 600; color: var(--quiet); margin: .25rem 0; }
header p, small { color: var(--quiet); }
p { margin: .4rem 0; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin-top: 1rem; }
.tile { flex: 1 1 9rem; padding: .75rem 1rem; border-radius: .5rem; background: var(--panel); }
.tile b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.tile span, .tile small { display: block; font-size: .85rem; }
.plots { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); }
figure { margin: 0; max-width: 32rem; }
svg { display: block; width: 100%; height: auto; }
svg * { stroke-linejoin: round; }
.scroll { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 600; white-space: nowrap; }
td { vertical-align: top; }
td small { display: block; font-size: .75rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
article { margin-bottom: 1.25rem; }
.lists { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); }
ul, ol { margin: 0; padding-left: 1.6rem; overflow-wrap: anywhere; }
.notes { padding: .6rem 1rem .6rem 2rem; border-radius: .5rem; background: var(--panel); }
code { font-size: .9rem; overflow-wrap: anywhere; }
details { margin: .4rem 0; }
summary { cursor: pointer; font-weight: 600; }
"""
