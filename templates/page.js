// The page of balance, kept up to date. Without this file it is the same page, as of when it was loaded.
'use strict';
(() => {
  const EVERY = 2000;
  const root = document.documentElement;
  const live = document.getElementById('live');
  root.classList.add('scripted');

  // Makes `now` the same as `then` and leaves in place all that is the same already: what has the focus keeps it.
  const morph = (now, then) => {
    for (const { name } of [...now.attributes]) {
      if (!then.hasAttribute(name)) now.removeAttribute(name);
    }
    for (const { name, value } of then.attributes) {
      if (now.getAttribute(name) !== value) now.setAttribute(name, value);
    }
    const wanted = [...then.childNodes];
    const ours = new Map([...now.children].filter((one) => one.id).map((one) => [one.id, one]));
    wanted.forEach((next, at) => {
      let here = now.childNodes[at];
      const known = next.id && ours.get(next.id);
      if (known && known !== here) {
        now.insertBefore(known, here || null);
        here = known;
      }
      if (!here) {
        now.append(document.importNode(next, true));
      } else if (here.nodeType !== next.nodeType || here.nodeName !== next.nodeName || (here.id || '') !== (next.id || '')) {
        now.insertBefore(document.importNode(next, true), here);
      } else if (next.nodeType === Node.TEXT_NODE) {
        if (here.data !== next.data) here.data = next.data;
      } else if (next.nodeType === Node.ELEMENT_NODE && !here.hasAttribute('data-keep')) {
        morph(here, next);
      }
    });
    while (now.childNodes.length > wanted.length) now.lastChild.remove();
  };

  const tell = (state, text) => {
    if (live.className !== state) live.className = state;
    if (live.textContent !== text) live.textContent = text;
  };

  let timer = 0;
  let request = null;
  const refresh = async () => {
    clearTimeout(timer);
    if (request) request.abort();
    if (document.hidden) return;
    const mine = (request = new AbortController());
    const patience = setTimeout(() => mine.abort(), 10000);
    try {
      const answer = await fetch(location.pathname + location.search, { signal: mine.signal, cache: 'no-store' });
      if (!answer.ok) throw new Error(String(answer.status));
      const text = await answer.text();
      if (mine !== request) return;
      const fresh = new DOMParser().parseFromString(text, 'text/html');
      document.title = fresh.title;
      for (const id of ['content', 'headline', 'again']) {
        const [now, then] = [document.getElementById(id), fresh.getElementById(id)];
        if (now && then) morph(now, then);
      }
      tell('on', 'live');
    } catch (error) {
      if (mine !== request || document.hidden) return;
      tell('lost', 'no answer, trying again');
    } finally {
      clearTimeout(patience);
      if (mine === request) {
        request = null;
        if (!document.hidden) timer = setTimeout(refresh, EVERY);
      }
    }
  };

  // What operators may do, if the server lets them: the token stays in this tab, and goes nowhere but into a header that no other site can
  // make a browser send.
  const KEY = 'balance-token';
  const element = (id) => document.getElementById(id);
  const store = {
    get: () => { try { return sessionStorage.getItem(KEY) || ''; } catch { return store.kept || ''; } },
    set: (token) => {
      store.kept = token;
      try { if (token) sessionStorage.setItem(KEY, token); else sessionStorage.removeItem(KEY); } catch { /* kept for this page only */ }
    },
  };
  const sign = element('sign');
  const showSign = () => { if (sign) sign.textContent = store.get() ? 'Sign out' : 'Sign in'; };

  // Whether the dialog was left by its main button.
  const asked = (dialog) => new Promise((resolve) => {
    dialog.returnValue = 'no';
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
    dialog.showModal();
  });
  const login = async () => {
    const field = element('token');
    field.value = '';
    const token = (await asked(element('login'))) ? field.value.trim() : '';
    field.value = '';
    if (token) store.set(token);
    showSign();
    return token;
  };
  const confirmed = (title, text, verb) => {
    element('ask-title').textContent = title;
    element('ask-text').textContent = text;
    element('ask-yes').textContent = verb;
    return asked(element('ask'));
  };
  let toastTimer = 0;
  const toast = (text, isBad) => {
    const place = element('toast');
    place.textContent = text.trim();
    place.className = isBad ? 'toast bad' : 'toast';
    clearTimeout(toastTimer);
    toastTimer = setTimeout(() => { place.textContent = ''; }, isBad ? 12000 : 5000);
  };

  // The answer to a command; asks for the token if there is none, or if it is wrong.
  const run = async (service, group, command) => {
    const token = store.get() || (await login());
    if (!token) return null;
    const query = new URLSearchParams();
    if (service) query.set('service', service);
    query.set('group', group || '0');
    try {
      const answer = await fetch('/api/v1/command?' + query, {
        method: 'POST',
        headers: { Authorization: 'Bearer ' + token, 'Content-Type': 'text/plain', Accept: 'text/plain' },
        body: command,
        cache: 'no-store',
      });
      const text = await answer.text();
      if (answer.status === 401) {
        store.set('');
        showSign();
      }
      return { ok: answer.ok, text: text || 'done' };
    } catch {
      return { ok: false, text: 'no answer from balance' };
    }
  };
  const act = async (service, group, command) => {
    const answer = await run(service, group, command);
    if (!answer) return;
    toast(answer.text, !answer.ok);
    refresh();
  };

  if (sign) {
    showSign();
    // No button that leaves a dialog is its form's: Enter in a field presses the first one of those.
    document.querySelectorAll('dialog [data-leave]').forEach((button) => {
      button.addEventListener('click', () => button.closest('dialog').close('no'));
    });
    sign.addEventListener('click', () => {
      if (!store.get()) return login();
      store.set('');
      return showSign();
    });

    let place = null;
    const openMore = (row) => {
      place = { ...row.dataset };
      element('more-title').textContent = 'Channel ' + place.channel + ' of group ' + place.group;
      element('more-text').textContent = place.address + ', ' + place.service + ', connections: ' + place.active;
      element('more-weight').value = place.weight;
      element('more-maxc').value = place.maxc;
      const pause = element('more-pause');
      pause.dataset.verb = place.paused === 'true' ? 'resume' : 'pause';
      pause.textContent = place.paused === 'true' ? 'Resume' : 'Pause';
      element('more-pause-text').textContent = place.paused === 'true' ? 'The clients that wait are served.' : 'New clients wait until you resume the channel.';
      element('more').showModal();
    };
    element('more').addEventListener('click', async ({ target }) => {
      const verb = target.dataset && target.dataset.verb;
      if (!verb || !place) return;
      const { service, group, channel, address, active } = place;
      const field = element('more-' + verb);
      if (field && field.tagName === 'INPUT' && !field.reportValidity()) return;
      const value = field && field.tagName === 'INPUT' ? ' ' + field.value : '';
      element('more').close();
      if (verb === 'kick' && !(await confirmed('Kick channel ' + channel + '?', 'balance closes all connections to ' + address + ' at once: ' + active + ' now.', 'Kick'))) return;
      act(service, group, verb + ' ' + channel + value);
    });
    document.addEventListener('click', async ({ target }) => {
      const button = target.closest('button[data-command], button[data-more]');
      const row = button && button.closest('[data-service]');
      if (!row) return;
      if (button.hasAttribute('data-more')) return void openMore(row);
      const { command, ask } = button.dataset;
      const { service, group } = row.dataset;
      if (ask && !(await confirmed(ask, button.dataset.then, button.dataset.do))) return;
      act(service, group, command);
    });
    const form = document.querySelector('form.command');
    form.addEventListener('submit', async (event) => {
      event.preventDefault();
      const { service, group, command } = form.elements;
      const answer = await run(service && service.value, group.value.trim(), command.value.trim());
      if (!answer) return;
      element('answer').textContent = answer.text;
      refresh();
    });
  }

  document.addEventListener('visibilitychange', () => {
    if (!document.hidden) {
      refresh();
      return;
    }
    clearTimeout(timer);
    if (request) request.abort();
    tell('', 'paused');
  });
  tell('on', 'live');
  timer = setTimeout(refresh, EVERY);
})();
