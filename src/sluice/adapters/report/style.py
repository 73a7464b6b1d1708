"""How the page looks: light or dark as the reader has it, and on paper."""

STYLE = """
:root{--ink:#1d2733;--dim:#5d6b7a;--line:#dfe4ea;--paper:#fff;--panel:#f6f8fa;
--c0:#1f6fb4;--c1:#d7731f;--c2:#2d8f5a;--c3:#8458b3;--c4:#c23b4b;--c5:#5c7080;
--good:#1e7f4f;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--ink:#e4e9ef;--dim:#9aa7b4;--line:#2f3a46;
--paper:#141a21;--panel:#1b232c;--c0:#5fa8e6;--c1:#f0984f;--c2:#5cc58c;--c3:#b48be0;--c4:#ee7582;
--c5:#9fb0be;--good:#5cc58c;--bad:#ee7582}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:28px 24px 60px}
h1{font-size:26px;line-height:1.2;margin:0 0 6px}
h2{font-size:19px;margin:0 0 8px}
h3{font-size:15px;margin:22px 0 6px}
section{margin-top:38px}
p{max-width:78ch;margin:0 0 10px}
.lead{font-size:16px;color:var(--dim)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}
.wide{overflow-x:auto}
th,td{padding:5px 12px 5px 0;text-align:right;vertical-align:top;
border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600}
tr>:first-child{text-align:left}
td.l,th.l{text-align:left}
tr:first-child>th{color:var(--dim);font-weight:500;white-space:normal;vertical-align:bottom}
small{display:block;color:var(--dim);font-size:12px;font-weight:400;line-height:1.3}
.figures td,.figures th{padding-right:20px}
.figures tr:first-child th{color:var(--ink);font-weight:600}
.figures tr:first-child small{max-width:190px;margin-left:auto}
.figures tr>th:first-child{min-width:230px}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:0 0 8px}
.key{white-space:nowrap}
.b{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:6px}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(440px,100%),1fr));gap:22px}
figure{margin:0;background:var(--panel);border-radius:8px;padding:12px 12px 6px}
figcaption{font-size:13px;color:var(--dim);margin-bottom:4px}
figcaption b{color:var(--ink)}
svg{display:block;width:100%;height:auto}
.l{fill:none;stroke-width:2;stroke-linejoin:round}
.r{fill:none;stroke:var(--dim);stroke-width:1.4;stroke-dasharray:3 3}
.g{stroke:var(--line);stroke-width:1}
.t{fill:var(--dim);font-size:11px}
.a{fill:var(--dim);font-size:12px}
polyline.c0,line.c0{stroke:var(--c0)}polyline.c1,line.c1{stroke:var(--c1)}
polyline.c2,line.c2{stroke:var(--c2)}polyline.c3,line.c3{stroke:var(--c3)}
polyline.c4,line.c4{stroke:var(--c4)}polyline.c5,line.c5{stroke:var(--c5)}
circle.c0{fill:var(--c0)}circle.c1{fill:var(--c1)}circle.c2{fill:var(--c2)}
circle.c3{fill:var(--c3)}circle.c4{fill:var(--c4)}circle.c5{fill:var(--c5)}
i.c0{background:var(--c0)}i.c1{background:var(--c1)}i.c2{background:var(--c2)}
i.c3{background:var(--c3)}i.c4{background:var(--c4)}i.c5{background:var(--c5)}
.segments{table-layout:fixed;width:1000px}
.segments th:nth-child(4){text-align:left;padding-left:24px}
.segments td:nth-child(4){padding-left:24px}
.bars{min-width:230px;padding-top:7px}
.bar{display:flex;align-items:center;gap:6px;height:13px;width:220px}
.bar i{height:8px;border-radius:2px;min-width:1px;flex:none}
.bar span{font-size:11px;color:var(--dim)}
.verdict{font-size:17px;padding:10px 14px;border-radius:8px;background:var(--panel);
border-left:5px solid var(--good)}
.verdict.bad{border-color:var(--bad)}
.verdict.good b{color:var(--good)}.verdict.bad b{color:var(--bad)}
.checks td,.checks th{white-space:normal;text-align:left}
.checks td:first-child{color:var(--good)}
.checks .failed>td:first-child,.checks tr.failed>th{color:var(--bad)}
.checks th,.checks tr:first-child>th{white-space:nowrap;font-weight:500;color:var(--ink)}
code{font:12.5px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.examples td:last-child{white-space:normal;min-width:420px}
.examples th:last-child,.examples th:nth-child(3){text-align:left}
.said{white-space:nowrap}.said small{display:inline}
dl{display:grid;grid-template-columns:minmax(110px,max-content) 1fr;gap:4px 20px;margin:0 0 14px}
dt{color:var(--dim)}
dd{margin:0;overflow-wrap:anywhere;max-width:78ch}
.rows td.s{text-align:left}
.rows td.w{text-align:left;white-space:normal;overflow-wrap:anywhere}
.rows tr:first-child>th{text-align:left}
.notice{margin-top:38px;padding:10px 14px;border-radius:8px;background:var(--panel)}
@media print{main{max-width:none;padding:0}section,tr{break-inside:avoid}
section:has(.rows){break-inside:auto}}
"""
