// Requests to the server. Every error is thrown with the server's message.

let token = sessionStorage.getItem("token");

/** Keeps the access token of the address, and takes it out of there. */
export function keepToken(value) {
  token = value;
  sessionStorage.setItem("token", value);
}

function headers(type) {
  return { ...(type ? { "content-type": type } : {}), ...(token ? { authorization: `Bearer ${token}` } : {}) };
}

async function checked(answer) {
  if (answer.ok) return answer;
  let message = `the server answered ${answer.status}`;
  try {
    message = (await answer.json()).error || message;
  } catch {
    // the answer of something between the page and the server
  }
  if (answer.status === 401) message += ". Open the page with the address that the server printed.";
  throw new Error(message);
}

async function request(path, init) {
  try {
    return await checked(await fetch(path, init));
  } catch (error) {
    if (error instanceof TypeError) throw new Error("the server does not answer: is it running?");
    throw error;
  }
}

export async function get(path, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  return (await request(path + (query ? `?${query}` : ""), { headers: headers() })).json();
}

export async function post(path, body = {}) {
  return (await request(path, { method: "POST", headers: headers("application/json"), body: JSON.stringify(body) })).json();
}

function upload(path, file, parameters, signal) {
  const query = new URLSearchParams({ ...parameters, name: file.name });
  return request(`${path}?${query}`, { method: "POST", headers: headers("application/octet-stream"), body: file, signal });
}

export async function sendFile(path, file, parameters) {
  return (await upload(path, file, parameters)).json();
}

/** Calls onEvent with each line of JSON of a streamed answer. A file, if given, is the body. */
export async function stream(path, body, onEvent, { signal, file } = {}) {
  const answer = file
    ? await upload(path, file, body, signal)
    : await request(path, { method: "POST", headers: headers("application/json"), body: JSON.stringify(body), signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const event = JSON.parse(line);
      if (event.event === "error") throw new Error(event.error);
      onEvent(event);
    }
  }
}

export function isAbort(error) {
  return error?.name === "AbortError";
}
