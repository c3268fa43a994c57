// A server that first calls a tool and then answers, in place of the real one; `asked` has the bodies it was sent.
window.asked = [];
window.fetch = (real => async (path, options) => {
    if (path !== "/v1/chat/completions") return real(path, options);
    asked.push(JSON.parse(options.body));
    const event = delta => {
        const choice = {index: 0, delta, finish_reason: null};
        return `data: ${JSON.stringify({choices: [choice]})}\n\n`;
    };
    const call = (fields, text) => event({tool_calls: [{index: 0, ...fields, function: {...fields.function, arguments: text}}]});
    const said = asked.length > 1
        ? event({content: "It rains."})
        : event({reasoning_content: "Hm."})
            + call({id: "c1", function: {name: "get_weather"}}, '{"city":')
            + call({}, ' "Paris"}');
    const headers = {"x-request-id": "r", "x-tradewind-ignored": "tools"};
    return new Response(`${said}data: [DONE]\n\n`, {headers});
})(window.fetch);
