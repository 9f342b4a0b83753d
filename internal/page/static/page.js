// The page. It keeps nothing but what lets this tab in (sessionStorage, which no
// other origin and no other port can read), puts text into the document as text
// only, and decides nothing: what it sends is judged by the desk.
'use strict';

const $ = (id) => document.getElementById(id);

// plain is the last thing that happens to text on its way to a human. The desk has
// cleaned all that comes from outside; this is for the day on which something slips past it.
function plain(s) { return String(s).replace(/[^\P{C}\n]|[\u2028\u2029]/gu, '?'); }

// el makes an element. A child that is a string becomes text, whatever it holds.
function el(tag, props, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (name.startsWith('on')) e.addEventListener(name.slice(2), value);
    else if (value === true) e.setAttribute(name, '');
    else if (value !== false && value != null) e.setAttribute(name, value);
  }
  e.append(...children.filter((c) => c != null).map((c) => (typeof c === 'string' ? plain(c) : c)));
  return e;
}

// text changes what stands in an element, and leaves alone what stands there already:
// a screen reader would read it again.
function text(e, s) {
  const p = plain(s || '');
  if (e.textContent !== p) e.textContent = p;
}

const prompts = new Map(); // what waits
const shown = new Set(); // of those, what the desk was told that a human sees
const past = [];
let chosen = '';
let ended = null; // the chosen prompt, when it is over
let skew = 0; // of this clock behind the responder's
let form = { key: '' };
let out = false;
let away = ''; // until when its human is

function token() { return sessionStorage.getItem('cfa') || ''; }

class Refused extends Error {
  constructor(status, answer) {
    super(answer.error || 'the responder does not answer');
    this.status = status;
    this.kind = answer.kind || '';
  }
}

async function send(path, body, more) {
  const r = await fetch(path, {
    method: 'POST', credentials: 'same-origin', redirect: 'error', cache: 'no-store', ...more,
    headers: { 'Content-Type': 'application/json', 'X-CFA-Token': token() },
    body: JSON.stringify(body),
  });
  if (r.ok) return r;
  throw new Refused(r.status, await r.json().catch(() => ({})));
}

async function call(path, body) {
  try {
    return await (await send(path, body)).json();
  } catch (e) {
    if (e.status === 401) back('You are not let in any more');
    if (e instanceof Refused) throw e;
    throw new Error('the responder cannot be reached, so nothing was sent');
  }
}

// ---- in and out ----

const again = 'Open the page anew with “cfa-responder open” in a terminal of yours.';

// gate shows the door, and forgets all that was behind it.
function gate(title, said) {
  out = true;
  sessionStorage.removeItem('cfa');
  prompts.clear();
  shown.clear();
  items.clear();
  past.length = 0;
  chosen = '';
  ended = null;
  for (const id of ['list', 'past', 'notices', 'rows', 'act', 'no', 'more-text', 'said', 'wrong', 'what', 'why', 'note', 'standing', 'spoken', 'line']) $(id).replaceChildren();
  form = { key: '' };
  document.title = 'cfa-responder';
  $('room').hidden = $('leave').hidden = $('ring').hidden = $('back').hidden = true;
  $('gate').hidden = false;
  text($('gate-title'), title);
  text($('gate-text'), said);
  $('gate-title').focus();
}

// ---- by passkey, where this is a phone's page ----

let phone = null; // what the responder says of it; null: this is no phone's page

// door shows how a phone comes in: nothing is shown before its passkey.
function door(title, ticket) {
  gate(title, ticket ? 'This phone gets a passkey, by which it comes in from now on, each time that it has recognised you.' : 'Your passkey lets you in.');
  const button = el('button', { type: 'button', class: 'main' }, ticket ? 'Make a passkey for this phone' : 'Use your passkey');
  button.addEventListener('click', async () => {
    button.disabled = true;
    try {
      const begun = await (await send(ticket ? '/api/passkey/make' : '/api/passkey/ask', ticket ? { ticket } : {})).json();
      ticket = '';
      const credential = begun.make
        ? await navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(begun.make.publicKey) })
        : await navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(begun.ask.publicKey) });
      const r = await (await send(begun.make ? '/api/passkey/made' : '/api/passkey/given', { ceremony: begun.ceremony, credential: JSON.stringify(credential.toJSON()) })).json();
      sessionStorage.setItem('cfa', r.token);
      location.reload();
    } catch (e) {
      text($('gate-text'), 'You are not let in: ' + sentence(e instanceof Refused ? e.message : 'no passkey was given') + (ticket ? '' : ' A new one is made with “cfa-responder phone add” on the responder’s machine.'));
      button.disabled = false;
    }
  });
  $('gate-doors').replaceChildren(button);
}

const scripts = window.trustedTypes ? trustedTypes.createPolicy('cfa', { createScriptURL: () => '/worker.js' }) : { createScriptURL: () => '/worker.js' };

// install makes the page one that a phone keeps among its programs, and offers to ring.
async function install() {
  if (!document.querySelector('link[rel=manifest]')) document.head.append(el('link', { rel: 'manifest', href: '/manifest.webmanifest' }));
  if (!navigator.serviceWorker) return;
  const worker = await navigator.serviceWorker.register(scripts.createScriptURL(''));
  if (!worker.pushManager || (await worker.pushManager.getSubscription())) return;
  $('ring').hidden = false;
  $('ring').onclick = async () => {
    try {
      const s = await worker.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: phone.push });
      const { endpoint, keys } = s.toJSON();
      await call('/api/ring', { endpoint, p256dh: keys.p256dh, auth: keys.auth });
      $('ring').hidden = true;
    } catch (e) {
      text($('wrong'), 'It will not ring: ' + sentence(e.message));
    }
  };
}

async function start() {
  try {
    phone = (await (await send('/api/door', {})).json()).phone || null;
  } catch (e) {
    return gate('The responder cannot be reached', again);
  }
  const ticket = /^#([A-Za-z0-9_-]{43})$/.exec(location.hash);
  if (ticket) {
    // Out of the address, the history and whatever is synchronised of them.
    history.replaceState(null, '', '/');
    if (phone) return door('A phone of yours', ticket[1]);
    try {
      const r = await (await send('/api/enter', { ticket: ticket[1] })).json();
      sessionStorage.setItem('cfa', r.token);
    } catch (e) {
      return gate('This link lets nobody in', sentence(e.message) + ' ' + again);
    }
  }
  if (phone && !token()) return door('cfa-responder on your phone', '');
  if (!token()) return gate('You are not let in', again);
  await listen();
}

// back is where who is out comes in again.
function back(title) {
  if (phone) door(title, '');
  else gate(title, again);
}

// Leaving ends the stream, which must not look like the responder's end: whoever comes
// back, or loads the page anew, is in still.
addEventListener('pagehide', () => { out = true; });
addEventListener('pageshow', (e) => { if (e.persisted) location.reload(); });

// A link that is followed in this very tab changes what is behind the # alone.
addEventListener('hashchange', () => { if (location.hash.length > 1) location.reload(); });

$('leave').addEventListener('click', async () => {
  try { await call('/api/leave', {}); } catch { /* it ends with this tab, then */ }
  back('You are logged out');
});

$('back').addEventListener('click', async () => {
  try {
    await call('/api/away', { until: '0001-01-01T00:00:00Z' });
  } catch (e) {
    text($('line'), e.message);
  }
});

// ---- the stream ----

async function listen() {
  let r;
  try {
    r = await send('/api/news', {});
  } catch (e) {
    if (e.status === 401) return back('You are not let in any more');
    if (phone && !(e instanceof Refused) && !$('room').hidden) return reconnect();
    return gate('The responder cannot be reached', sentence(e.status === 429 ? e.message : '') + again);
  }
  wait = 1000;
  // What ended while there was no connection is not told of any more.
  prompts.clear();
  shown.clear();
  $('list').replaceChildren();
  items.clear();
  chosen = '';
  ended = null;
  $('gate').hidden = true;
  $('room').hidden = $('leave').hidden = false;
  if (phone) install().catch(() => { /* it does without */ });
  render();
  const reader = r.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      rest += value;
      const pieces = rest.split('\n\n');
      rest = pieces.pop();
      for (const piece of pieces) event(piece);
    }
  } catch { /* it has ended */ }
  // It is not sought again by itself: whoever has this port next could be another
  // user of this machine, who would like to show a page of theirs here. A phone's page
  // has a certificate to know it by, and loses its connection at each tunnel.
  if (!out && phone) return reconnect();
  if (!out) gate('The responder has ended, or your session has', again);
}

let wait = 1000;

async function reconnect() {
  text($('line'), 'not connected; what is shown may be over');
  await new Promise((f) => { setTimeout(f, wait); });
  wait = Math.min(wait * 2, 30000);
  if (!out) await listen();
}

function event(piece) {
  const m = /^event: (\w+)\ndata: (.*)$/.exec(piece);
  if (!m || out) return;
  const data = JSON.parse(m[2]);
  switch (m[1]) {
    case 'hello':
    case 'clock':
      skew = Date.parse(data.now) - Date.now();
      break;
    case 'notice':
      $('notes').hidden = false;
      $('notices').prepend(el('li', {}, data.text));
      while ($('notices').children.length > 20) $('notices').lastChild.remove();
      text($('line'), data.text);
      break;
    case 'away':
      away = Date.parse(data.until) > 0 ? data.until : '';
      $('back').hidden = !away;
      text($('line'), away ? `away until ${new Date(away).toLocaleString()}` : 'back');
      speak($('line').textContent);
      break;
    case 'prompt':
      take(data);
      break;
  }
}

function take(p) {
  const old = prompts.get(p.id);
  // Once it is answered there is no proof any more; what was last verified is what its
  // human knows it by.
  if (old && old.facts.repository && !p.facts.repository && p.phase !== 'asking') {
    p = { ...p, facts: old.facts, service: old.service, sentence: old.sentence, rows: old.rows };
  }
  if (p.phase === 'over') {
    prompts.delete(p.id);
    shown.delete(p.id);
    past.unshift({ ...p, ended: new Date() });
    past.length = Math.min(past.length, 20);
    if (chosen === p.id) {
      ended = past[0];
      speak(`Number ${p.number} is over: ${p.why}`);
    }
  } else {
    prompts.set(p.id, p);
    // The words of what a human is reading now are read to them when they come to
    // it; what is elsewhere is said.
    if (p.quiet) { /* its human is away */ } else if (!old) speak(`New: a request in the project ${p.project}`);
    else if (old.standing !== p.standing || old.attempt !== p.attempt || old.phase !== p.phase) {
      speak(`Number ${p.number}, ${standing(p)[1]}: ${p.sentence && p.answerable ? p.sentence : p.why}`);
    }
  }
  // What is over has nothing to press, so that what comes next may take its place; what
  // waits is never changed for another under a human's hand.
  if (p.phase !== 'over' && (!chosen || ended)) {
    chosen = p.id;
    ended = null;
    text($('said'), '');
    text($('wrong'), '');
  }
  render();
  see();
}

function speak(s) { text($('spoken'), s || ''); }

// see tells the desk what is before a human's eyes: only that makes the job prove
// itself.
async function see() {
  if (out || document.visibilityState !== 'visible') return;
  const ids = [...prompts.values()].filter((p) => !p.quiet && !shown.has(p.id)).map((p) => p.id);
  if (!ids.length) return;
  for (const id of ids) shown.add(id);
  try { await call('/api/open', { ids }); } catch { for (const id of ids) shown.delete(id); }
}
document.addEventListener('visibilitychange', see);

// ---- words ----

function sentence(s) { return !s ? '' : /[.!?]$/.test(s) ? s : s + '.'; }

function span(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s >= 3600) return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
  if (s >= 60) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${s} s`;
}

function now() { return Date.now() + skew; }

// standing gives a class and a word.
function standing(p) {
  switch (p.phase) {
    case 'over': return ['dim', 'over'];
    case 'sending': return ['warn', 'on its way'];
    case 'resting': return ['good', 'answered'];
  }
  switch (p.standing) {
    case 'verified': return p.answerable ? ['good', 'verified'] : ['bad', 'verified, and not answerable'];
    case 'foreign': return ['bad', 'another job than your pins allow'];
    case 'unpinned': return ['warn', 'not pinned'];
    case 'unproven': return ['bad', 'not proved'];
    case 'unopened': if (p.quiet) return ['warn', 'came while you are away']; break;
    case 'checking': return ['warn', 'being checked'];
  }
  return ['warn', 'not verified'];
}

function title(p) {
  if (p.facts && p.facts.repository) return `${p.facts.repository}, for ${p.service}`;
  return `a request in the project ${p.project}`;
}

function list() { return [...prompts.values()].sort((a, b) => a.number - b.number); }

// ---- the list ----

const items = new Map();

function renderList() {
  const all = list();
  for (const [id, item] of items) {
    if (prompts.has(id)) continue;
    item.li.remove();
    items.delete(id);
  }
  for (const p of all) {
    let item = items.get(p.id);
    if (!item) {
      item = { name: el('span', { class: 'name' }), facts: el('span', { class: 'facts' }) };
      item.button = el('button', { type: 'button', onclick: () => choose(p.id) }, item.name, item.facts);
      item.li = el('li', {}, item.button);
      items.set(p.id, item);
      $('list').append(item.li);
    }
    text(item.name, `#${p.number} ${title(p)}`);
    item.button.setAttribute('aria-current', p.id === chosen);
  }
  const n = all.length;
  text($('waiting'), n ? `${n} waiting` : 'Nothing waits');
  document.title = n ? `(${n}) cfa-responder` : 'cfa-responder';
  $('over').hidden = !past.length;
  $('past').replaceChildren(...past.map((p) => el('li', {}, `${p.ended.toLocaleTimeString()} #${p.number} ${title(p)}: ${p.why}`)));
  clock();
}

function choose(id) {
  if (chosen !== id) {
    chosen = id;
    ended = null;
    text($('said'), '');
    text($('wrong'), '');
  }
  render();
  $('what').focus();
}

// clock moves what counts down.
function clock() {
  for (const [id, item] of items) {
    const p = prompts.get(id);
    text(item.facts, `${standing(p)[1]}, ${span(Date.parse(p.deadline) - now())} left`);
  }
  for (const e of document.querySelectorAll('[data-until]')) text(e, span(Date.parse(e.dataset.until) - now()));
  for (const e of document.querySelectorAll('[data-since]')) {
    const at = Date.parse(e.dataset.since);
    text(e, `${new Date(at).toLocaleTimeString()} (${span(now() - at)} ago, by the job’s clock)`);
  }
}
setInterval(clock, 1000);

// ---- one prompt ----

function render() {
  if (out) return;
  renderList();
  const p = prompts.get(chosen) || ended;
  $('prompt').hidden = !p;
  if (!p) return;
  const [tint, word] = standing(p);
  $('standing').className = 'badge ' + tint;
  text($('standing'), `#${p.number} ${word}`);
  text($('what'), p.sentence || sentence(title(p).replace(/^a/, 'A')));
  text($('why'), p.answerable && p.phase !== 'over' ? '' : sentence(p.why));
  text($('note'), sentence(p.note));
  rows(p);
  $('more').hidden = !p.details;
  text($('more-text'), p.details || '');
  act(p);
  refusal(p);
}

let rowsOf = '';

function rows(p) {
  // What counts is counted here, so that a reader's place is not lost at each step.
  const counts = (p.rows || []).filter(([label]) => label !== 'time left' && label !== 'asked at');
  const key = JSON.stringify([p.id, counts, p.since, p.deadline, p.phase]);
  if (key === rowsOf) return;
  rowsOf = key;
  const all = [];
  for (const [label, value] of p.rows || []) {
    const name = label.trim();
    const dt = el('dt', { class: label === name ? '' : 'inner' }, name);
    const dd = el('dd', {});
    if (name === 'time left') {
      if (p.phase === 'over') continue;
      dd.dataset.until = p.deadline;
    } else if (name === 'asked at') dd.dataset.since = p.since;
    else if (name === 'match code' && p.match) {
      dd.className = 'code';
      dd.append(plain(p.match), el('small', {}, 'the job’s log must show the same'));
    } else {
      if (name === 'link host') dd.className = 'host';
      else if (name === 'link') dd.className = 'link';
      else if (name === 'sha256') dd.className = 'digest';
      dd.append(plain(value || '–'));
    }
    if (dd.className) dt.classList.add('wide');
    all.push(dt, dd);
  }
  $('rows').replaceChildren(...all);
  clock();
}

// kin are those that one code answers together.
function kin(p) {
  if (!p.group || !p.reusable) return [];
  return list().filter((q) => q.answerable && q.group === p.group && q.ask === 'code' && !q.yes);
}

// kindOf says which form a prompt has now.
function kindOf(p) {
  if (p.phase !== 'asking') return '';
  if (p.quiet) return 'prove';
  if (!p.answerable) return ['unproven', 'foreign', 'unpinned', 'verified'].includes(p.standing) ? 'prove' : '';
  if (p.ask === 'link') return !p.link_host ? 'run' : p.type_match ? 'link-match' : 'link';
  if (p.yes) return 'yes';
  return p.type_match ? 'match' : 'code';
}

// act puts the form there, and leaves it alone as long as it is for the same thing.
// What was typed for one that is not any more is thrown away.
function act(p) {
  const kind = kindOf(p);
  const all = kind === 'code' || kind === 'match' ? kin(p) : [];
  $('kin').hidden = all.length < 2 || (form.all && form.id === p.id);
  text($('kin'), `Answer all ${all.length} of its run with one code`);
  if (form.all && form.id === p.id && (kind === 'code' || kind === 'match')) {
    const still = form.all.filter((m) => all.some((q) => q.id === m.id && q.attempt === m.attempt));
    if (still.length === form.all.length) return;
    if (still.length) {
      form.all = still;
      text($('said'), 'One of them cannot be answered any more, and is left out.');
      return;
    }
  }
  // After its match code was taken, the code is asked for: the prompt still says match.
  const key = [p.id, p.attempt, kind, kind === 'link' ? p.link : ''].join(' ');
  if (key === form.key || (form.busy && form.id === p.id && form.attempt === p.attempt)) return;
  const dirty = form.input && form.input.value !== '' && form.id === p.id && !form.sent;
  if (form.input) form.input.value = '';
  const focused = $('act').contains(document.activeElement);
  if (dirty) text($('wrong'), 'What you were typing was thrown away: ' + sentence(p.why || (p.type_match ? 'its match code is to be typed now' : 'it has changed')));
  else if (form.id !== p.id || form.attempt !== p.attempt) text($('wrong'), '');
  form = { key, id: p.id, attempt: p.attempt, number: p.number };
  const makers = { code: codeForm, match: matchForm, yes: matchForm, 'link-match': matchForm, link: linkForm, run: runForm, prove: proveForm };
  $('act').replaceChildren(...(makers[kind] ? [].concat(makers[kind](p)) : []));
  if (focused) (form.input || $('act').querySelector('a, button') || $('what')).focus();
}

// entry is an input that nothing remembers.
function entry(props) {
  return el('input', {
    type: 'text', autocomplete: 'off', autocapitalize: 'off', autocorrect: 'off', spellcheck: 'false', required: true,
    'data-1p-ignore': true, 'data-lpignore': 'true', 'data-bwignore': true, 'data-form-type': 'other', ...props,
  });
}

// formatted lets in only what the format has.
function formatted(p) {
  const m = /^(\d+)(?: to (\d+))? (digits|hex digits|letters or digits)$/.exec(p.format || '');
  if (!m) return { props: { maxlength: 512 }, clean: (s) => s };
  const not = { digits: /[^0-9]/g, 'hex digits': /[^0-9a-fA-F]/g, 'letters or digits': /[^0-9a-zA-Z]/g }[m[3]];
  const most = Number(m[2] || m[1]);
  return { props: { inputmode: m[3] === 'digits' ? 'numeric' : 'text', minlength: m[1] }, clean: (s) => s.replace(not, '').slice(0, most) };
}

function codeForm(p) {
  const format = formatted(p);
  const input = entry({ id: 'code', ...format.props, 'aria-describedby': 'code-hint wrong' });
  input.addEventListener('input', () => {
    const clean = format.clean(input.value);
    if (clean !== input.value) input.value = clean;
  });
  form.input = input;
  const one = el('form', { class: 'answer' },
    el('label', { for: 'code' }, form.all ? `Code for ${numbers(form.all)}, ${p.format}` : `Code, ${p.format}`),
    input,
    el('p', { class: 'hint', id: 'code-hint' }, 'It is sealed here, to this one job; the relay cannot read it.'),
    el('div', { class: 'row' },
      el('button', { type: 'submit', class: 'main' }, form.all ? `Send to all ${form.all.length}` : 'Send the code'),
      form.all ? el('button', { type: 'button', onclick: alone }, 'Only this one') : null));
  submit(one, async () => {
    const code = input.value;
    input.value = '';
    if (form.all) {
      const r = await call('/api/answer-all', { members: form.all.map(({ id, attempt }) => ({ id, attempt })), code, match: form.match || '' });
      return 'Sealed, for each job by itself; on its way.' + r.left.map((l) => ' One is left out: ' + sentence(l.error)).join('');
    }
    await call('/api/answer', { id: form.id, attempt: form.attempt, code, match: form.match || '' });
    return 'Sealed: only this job can open it; it is on its way.';
  });
  return one;
}

function numbers(all) { return all.map((m) => '#' + m.number).join(', '); }

// The form becomes one for all of a run: those that are shown now.
$('kin').addEventListener('click', () => {
  const p = prompts.get(chosen);
  const all = p ? kin(p) : [];
  if (all.length < 2 || form.busy) return;
  form = { key: form.key, id: p.id, attempt: p.attempt, number: p.number, all: all.map(({ id, attempt, number }) => ({ id, attempt, number })) };
  const make = all.some((q) => q.type_match) ? matchForm : codeForm;
  $('act').replaceChildren(make(p));
  $('kin').hidden = true;
  form.input.focus();
});

function alone() {
  form = { key: '' };
  render();
  if (form.input) form.input.focus();
}

// matchForm asks for the match code first: whoever reads the wrong log shall find out
// before typing a code.
function matchForm(p) {
  const kind = p.yes ? 'yes' : p.ask === 'link' ? 'link-match' : 'match';
  const input = entry({ id: 'match', maxlength: 20, 'aria-describedby': 'match-hint wrong' });
  form.input = input;
  const hint = {
    yes: p.ask === 'code' ? 'It is your yes; another person gives the code.' : 'It is your yes to these files, by their digests.',
    'link-match': 'Then the link is shown.',
    match: 'Then the code is asked for.',
  }[kind];
  const one = el('form', { class: 'answer' },
    el('label', { for: 'match' }, 'Match code, as the job’s log shows it'),
    input,
    el('p', { class: 'hint', id: 'match-hint' }, hint),
    el('div', { class: 'row' },
      el('button', { type: 'submit', class: 'main' }, kind === 'yes' ? 'Approve' : 'Continue'),
      form.all ? el('button', { type: 'button', onclick: alone }, 'Only this one') : null));
  submit(one, async () => {
    const match = input.value.trim();
    if (kind === 'link-match') {
      const r = await call('/api/follow', { id: form.id, attempt: form.attempt, code: '', match });
      $('act').replaceChildren(...[].concat(linkForm({ ...p, link: r.link, link_host: r.host })));
      form.input = null;
      $('act').querySelector('a').focus();
      return '';
    }
    try {
      if (form.all) await call('/api/answer-all', { members: form.all.map(({ id, attempt }) => ({ id, attempt })), code: '', match });
      else await call('/api/answer', { id: form.id, attempt: form.attempt, code: '', match });
    } catch (e) {
      // Asked with no code yet: that it lacks is said only after the match code is right.
      if (e.kind !== 'code' || kind !== 'match') throw e;
      form.match = match;
      $('act').replaceChildren(codeForm(p));
      form.input.focus();
      return '';
    }
    return 'Your yes is signed, and on its way.';
  });
  return one;
}

// linkForm shows first where a link leads.
function linkForm(p) {
  if (!/^https:\/\//.test(p.link)) return el('p', {}, 'Its link is not shown: it is none that a browser may follow.');
  // Where its match code was to be typed, the rows above do not have it yet.
  const where = p.type_match ? [el('p', { class: 'host' }, p.link_host), el('p', { class: 'link' }, p.link)] : [];
  return [
    ...where,
    el('a', { class: 'button main', href: p.link, target: '_blank', rel: 'noopener noreferrer' }, `Open ${p.link_host}`),
    el('p', { class: 'hint' }, 'The job sees by itself when that is done.'),
  ];
}

function runForm() {
  return el('p', {}, 'Run the command above, on a computer of your own; the job sees by itself when that is done.');
}

function proveForm(p) {
  return el('p', {}, el('button', { type: 'button', onclick: () => call('/api/open', { ids: [p.id] }).catch((e) => text($('wrong'), sentence(e.message))) }, 'Have the job prove itself again'));
}

// submit runs what a form sends, once at a time.
function submit(f, f2) {
  f.addEventListener('submit', async (e) => {
    e.preventDefault();
    const mine = form;
    if (mine.busy) return;
    mine.busy = true;
    const buttons = f.querySelectorAll('button');
    buttons.forEach((b) => { b.disabled = true; });
    text($('wrong'), '');
    text($('said'), '');
    try {
      const said = await f2();
      mine.sent = true;
      text($('said'), said);
    } catch (err) {
      text($('wrong'), 'Not sent: ' + sentence(err.message));
      mine.wrong = true;
    }
    mine.busy = false;
    buttons.forEach((b) => { b.disabled = false; });
    render();
    if (mine.wrong && form === mine && form.input) {
      mine.wrong = false;
      form.input.focus();
    }
  });
}

// ---- no ----

let refusalOf = '';

// refusal is how a prompt is declined: also one that is not verified.
function refusal(p) {
  const key = p.phase === 'asking' || p.phase === 'resting' ? p.id : '';
  if (key === refusalOf) return;
  refusalOf = key;
  if (!key) {
    $('no').replaceChildren();
    return;
  }
  const input = el('input', { id: 'reason', class: 'words', type: 'text', maxlength: 300, autocomplete: 'off', 'aria-describedby': 'reason-hint' });
  const one = el('form', {},
    el('label', { for: 'reason' }, 'Why, if you like'),
    input,
    el('p', { class: 'hint', id: 'reason-hint' }, 'The job’s log and your colleagues will read it. Declining is final.'),
    el('div', { class: 'row' }, el('button', { type: 'submit', class: 'no' }, 'Decline it')));
  one.addEventListener('submit', async (e) => {
    e.preventDefault();
    text($('wrong'), '');
    try {
      await call('/api/decline', { id: p.id, reason: input.value });
      text($('said'), 'Declined: your no is on its way.');
      $('what').focus();
    } catch (err) {
      text($('wrong'), 'Not sent: ' + sentence(err.message));
    }
  });
  $('no').replaceChildren(el('details', {}, el('summary', {}, 'Decline…'), one));
}

start();
