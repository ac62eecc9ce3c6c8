"""Style sheets: for figures wherever they appear, and for the pages and notebooks around them."""

from __future__ import annotations

# Colours come from the surroundings (`currentColor`), so figures suit light and dark notebooks.
# CircuitsVis paints for a white background and gets a light panel of its own. The boxes around its
# canvases must not grow with them, because the canvases follow the boxes. Classes are doubled where
# a notebook's own rules for tables would win.
FIGURE_STYLE = """
.tvlens-figure{margin:1.1em 0;min-width:0;max-width:100%;line-height:1.5;
  font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
.tvlens-title{margin:0 0 .4em!important;font-weight:600;font-size:15px}
.tvlens-figure figcaption,.tvlens-note{margin:.5em 0 0;font-size:13.5px;opacity:.8;max-width:75ch}
.tvlens-scroll{overflow-x:auto;overflow-y:hidden;max-width:100%}
.tvlens-mount{position:relative;box-sizing:border-box;isolation:isolate}
.tvlens-alt{visibility:hidden;margin:0}
.tvlens-message{margin:0;padding:.8em 1em;border:1px dashed;border-radius:6px;font-size:13.5px}
.tvlens-mount.vega-embed{display:block;width:100%;padding:0!important}
.tvlens-mount.vega-embed svg{display:block}
.tvlens-circuitsvis .tvlens-scroll{background:#fff;color:#16181d;color-scheme:light;
  border:1px solid rgba(128,128,128,.3);border-radius:8px;padding:12px 14px;box-sizing:border-box}
.tvlens-circuitsvis .tvlens-mount{font-size:14px}
.tvlens-circuitsvis h2{font-size:16px}
.tvlens-circuitsvis h3{font-size:14px;margin-top:0;font-weight:600}
.tvlens-circuitsvis h4{font-size:11px;font-weight:500}
.tvlens-circuitsvis div:has(>canvas){width:100%!important;min-height:0;overflow:hidden}
.tvlens-circuitsvis table{border-collapse:collapse}
.tvlens-circuitsvis td,.tvlens-circuitsvis th{padding:2px 7px}
.tvlens-row{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,320px),1fr));
  gap:0 28px;align-items:start}
.tvlens-pictures{display:flex;flex-wrap:wrap;gap:10px 14px}
.tvlens-picture{display:flex;flex-direction:column;align-items:center;width:72px;font-size:12px;
  line-height:1.3;text-align:center;overflow-wrap:anywhere}
.tvlens-picture img{width:56px;height:56px;background:#fff;border-radius:6px}
.tvlens-circuitsvis .tvlens-thumbnail{height:32px;vertical-align:middle;background:#fff}
.tvlens-table.tvlens-table{border-collapse:collapse;font-size:14px;
  font-variant-numeric:tabular-nums}
.tvlens-table.tvlens-table th,.tvlens-table.tvlens-table td{padding:5px 14px 5px 0;
  text-align:left;vertical-align:top;border-bottom:1px solid rgba(128,128,128,.25)}
.tvlens-table.tvlens-table thead th{border-bottom-color:rgba(128,128,128,.7);font-weight:600}
.tvlens-table.tvlens-table tbody th{font-weight:500}
.tvlens-table.tvlens-table .number{text-align:right;white-space:nowrap}
"""

# A page inside a notebook: nothing here reaches beyond its own box.
NOTEBOOK_STYLE = """
.tvlens-page{max-width:1080px}
.tvlens-page .summary{border-left:3px solid #3b82c4;background:rgba(128,128,128,.1);
  border-radius:0 8px 8px 0;padding:.5em 1.2em;margin:.6em 0 1.2em}
.tvlens-page .summary p,.tvlens-page section>p{max-width:75ch;margin:.4em 0}
.tvlens-page section{padding:.4em 0}
.tvlens-page summary{cursor:pointer;font-weight:600}
.tvlens-page details td{overflow-wrap:anywhere}
"""

PAGE_STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--soft:#59636e;--line:#d9dee4;--paper:#fff;
  --panel:#f5f7f9;--link:#0550ae}
@media (prefers-color-scheme:dark){:root{--ink:#e4e7eb;--soft:#9aa4b0;--line:#333a44;
  --paper:#14171c;--panel:#1c2128;--link:#79b8ff}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;scroll-padding-top:56px;-webkit-text-size-adjust:100%}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.6 system-ui,-apple-system,
  "Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;overflow-wrap:break-word}
.page{max-width:1080px;margin:0 auto;padding:40px 28px 72px}
h1{font-size:30px;line-height:1.25;letter-spacing:-.015em;margin:0 0 18px}
h2{font-size:20px;line-height:1.3;letter-spacing:-.005em;margin:0 0 8px}
section{padding:30px 0 6px;border-top:1px solid var(--line)}
section p{max-width:75ch;margin:.5em 0}
a{color:var(--link)}
.summary{background:var(--panel);border-left:3px solid var(--link);border-radius:0 8px 8px 0;
  padding:14px 22px;margin:0 0 26px}
.summary p{margin:.35em 0;max-width:78ch}
.contents ol{list-style:none;margin:0;padding:0}
.contents a{color:var(--soft);text-decoration:none;font-size:13.5px;line-height:1.35}
.contents a:hover{color:var(--link);text-decoration:underline}
details{border-top:1px solid var(--line);padding-top:20px;margin-top:26px}
summary{cursor:pointer;font-weight:600}
details table{margin-top:12px}
details td{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:12.5px;
  overflow-wrap:anywhere}
@media (min-width:1000px){
  .with-contents{display:grid;grid-template-columns:150px minmax(0,1fr);gap:0 40px}
  .with-contents header{grid-column:2}
  .contents{grid-column:1;grid-row:1/3}
  .contents ol{position:sticky;top:36px;padding-top:8px}
  .contents li{margin:0 0 11px}
  .with-contents main{grid-column:2}
}
@media (max-width:999.9px){
  .page{padding:26px 18px 56px}
  .contents{position:sticky;top:0;z-index:20;margin:0 -18px 4px;background:var(--paper);
    border-bottom:1px solid var(--line);overflow-x:auto}
  .contents ol{display:flex;gap:22px;padding:11px 18px;width:max-content}
  .contents li{white-space:nowrap}
  h1{font-size:25px}
  section:first-child{border-top:0}
}
@media print{.contents{display:none}.page{max-width:none;padding:0}}
"""
