// What a phone runs when it is rung: it says that something waits, and nothing else,
// whatever came. It keeps no page and no answer.
'use strict';

addEventListener('push', (e) => {
  e.waitUntil(registration.showNotification('Something waits', { body: 'Open it to see what asks.', tag: 'cfa', icon: '/icon.svg' }));
});

addEventListener('notificationclick', (e) => {
  e.notification.close();
  e.waitUntil(clients.matchAll({ type: 'window' }).then((all) => (all.length ? all[0].focus() : clients.openWindow('/'))));
});
