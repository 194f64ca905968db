// Responses side by side. The data come from analysis/report/responses.py; texts reach the page as text, never as HTML.
if (page.able) {
  const begin = async (box) => {
    const data = await page.unpack(box.dataset.packed);
    const control = (role) => page.part(box, role);
    const index = new Map(data.units.map((unit) => [[unit.kind, unit.step, unit.place, unit.seed].join(), unit]));
    const kind = () => data.kinds.find((one) => one.id === control("kind").value);
    const step = () => kind().steps[Number(control("step").value)];
    const unit = (place) => index.get([kind().id, step(), place, Number(control("seed").value)].join());

    const card = (arm, one) => {
      const article = page.make("article", undefined, "card");
      article.append(page.make(`h${box.dataset.level}`, arm));
      article.append(page.make("p", one ? one.facts : "No response is recorded.", "facts"));
      if (one?.prompt !== undefined) article.append(page.make("p", `Its prompt was another one: ${one.prompt}`, "note"));
      if (one) article.append(page.make("pre", one.text));
      return article;
    };

    // A training prompt is another one at each step: its name is its number.
    const prompts = () => {
      const select = control("prompt");
      const before = Number(select.value || 0);
      select.replaceChildren(...Array.from({ length: kind().prompts }, (_, at) => {
        const text = (unit(at)?.prompt ?? "not recorded").replace(/\s+/g, " ").trim();
        const option = page.make("option", `${at + 1}: ${text.length > 42 ? `${text.slice(0, 42)}...` : text}`);
        option.value = at;
        return option;
      }));
      select.value = before < kind().prompts ? before : 0;
    };

    const draw = () => {
      const steps = kind().steps;
      control("step").max = steps.length - 1;
      prompts();
      const found = unit(Number(control("prompt").value));
      const said = kind().id === "validation" && step() === 0 ? "Before training" : `Step ${step()}`;
      control("at").textContent = `${said}, ${Number(control("step").value) + 1} of ${steps.length}`;
      control("step").setAttribute("aria-valuetext", said);
      control("text").textContent = found ? found.prompt : "This prompt is not recorded for this seed and step.";
      control("cards").replaceChildren(...data.arms.map((arm, at) => card(arm, found?.by[at])));
    };

    box.querySelector(".controls").hidden = false;
    box.querySelector(".without").hidden = true;
    control("step").max = kind().steps.length - 1;
    control("step").value = control("step").max;
    box.addEventListener("input", ({ target }) => {
      if (target.dataset.role === "kind") {
        control("step").max = kind().steps.length - 1;
        control("step").value = control("step").max;
      }
      draw();
    });
    draw();
    box.dataset.ready = "";
  };

  for (const box of document.querySelectorAll(".responses")) page.whenSeen(box, () => begin(box));
}
