"""Words by which people name what the classes of emoji64 and emoji128 show, beside the classes' own names."""

WORDS: dict[str, str] = {
    "smiley": "smile emoji emoticon",
    "cat face": "kitten kitty",
    "animal face": "dog bear monkey lion tiger panda koala cow pig mouse hamster raccoon",
    "person": "man woman girl boy human people",
    "heart": "",
    "bird": "duck goose crow rooster raven dodo",
    "fish": "dolphin shark pufferfish",
    "flower": "rose tulip sunflower blossom hyacinth lotus hibiscus",
    "plant": "tree cactus palm bush bamboo shamrock clover",
    "fruit": "apple pear orange lemon strawberry mango peach grapes cherries tomato tangerine lime",
    "drink": "glass wine cocktail cup beer tumbler juice",
    "vehicle": "car bus lorry truck van taxi ambulance jeep",
    "boat": "ship ferry sailboat yacht",
    "moon": "",
    "weather": "cloud sun rain snow",
    "clock": "watch",
    "flag": "",
}
