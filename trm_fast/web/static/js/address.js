// What the address holds after #: the page, the model and the puzzle. Servers never see it.

import { keepToken } from "./api.js";

/** The values of the address. An access token moves from there to the session. */
export function readAddress() {
  const values = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  if (values.token) {
    keepToken(values.token);
    delete values.token;
    writeAddress(values);
  }
  return values;
}

export function writeAddress(values) {
  const text = new URLSearchParams(Object.entries(values).filter(([, value]) => value)).toString();
  history.replaceState(null, "", `${location.pathname}${text ? `#${text}` : ""}`);
}

export function addressOf(values) {
  return `${location.origin}${location.pathname}#${new URLSearchParams(values)}`;
}
