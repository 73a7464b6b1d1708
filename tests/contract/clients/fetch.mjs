// Prints the status and body of each of several answers: over connections kept, then over closed ones.
const [url, ...bodies] = process.argv.slice(2);
for (const connection of ["keep-alive", "close"])
  for (const body of bodies) {
    const headers = { "content-type": "application/json", connection };
    const answer = await fetch(url, { method: "POST", headers, body });
    console.log(answer.status, await answer.text());
  }
